"""What all commands share: processes, ranks and their collective operations, locks, logs, precision, memory.

    processes       worker processes: a pool, death with the parent (no torch)
    lock            one run at a time writes an output (no torch)
    memory          peak memory (no torch)
    launch          which ranks a command starts, and watching them
    failures        what an exception in a rank means
    rendezvous      how ranks connect; heartbeat: which rank does not answer
    parallel        World: collective operations, wrapping a module; sharding, trees: their helpers
    precision       autocast and loss scale
    logs            log lines; metrics_writer: metrics for machines

Nothing here imports models, data or checkpoints.
"""
