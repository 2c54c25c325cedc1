"""Used by all commands: processes, ranks and their collective operations, locks, logs, precision, memory.

    processes       a pool of worker processes that end with their parent (no torch)
    lock            lets one run at a time write an output (no torch)
    memory          peak memory (no torch)
    threads         CPU threads: how many, how they wait, workers for parts of a batch (no torch at import)
    launch          starts the ranks of a command on this machine and watches them
    failures        classifies the exceptions of ranks
    rendezvous      connects the ranks; heartbeat: finds the rank that does not respond
    parallel        World: collective operations, wrapping a module; sharding, trees: their helpers
    tensor_parallel ranks that compute one model's layers together
    sharded_state   tensors that ranks write into one folder, each its part
    precision       autocast and loss scale
    logs            log lines; metrics_writer: metrics as JSON lines and for TensorBoard

Nothing here imports models, data or checkpoints.
"""
