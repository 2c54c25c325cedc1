"""What a pretraining run would need, on any devices: parameters, memory by part, operations, communication, hours, the
largest batch, the loss to expect.

`pretrain.py ... --dry_run` prints it and trains nothing. Datasets and devices need not be there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from uer.config import ModelConfig, ParallelConfig, TrainConfig
from uer.data.processors import PROCESSORS, Processor
from uer.data.schema import VocabInfo
from uer.errors import UserError
from uer.family.devices import Devices, named_devices
from uer.family.scaling import LINK_EFFICIENCY, NETWORK_BANDWIDTH, NODE, all_reduce_seconds
from uer.planning.flops import flops_per_token, forward_flops_per_token, parameter_count, teacher_bytes
from uer.planning.hardware import GPUS, Gpu, known_gpu
from uer.planning.loss_law import law_of, layer_parameters, read_law
from uer.planning.memory import Exchange, Memory, largest_batch, memory_of, traffic_of
from uer.registry import choose
from uer.runtime.precision import TYPES, automatic
from uer.text import amount, count, hours
from uer.training.preflight import check_targets

FILLED = 0.9
"""The part of a GPU's memory that a batch may fill: blocks of different sizes leave gaps between them."""
FIXED_BYTES = 1 << 30
"""What a process uses besides its tensors: the CUDA context, buffers of the communication library."""
LARGE_MODEL = 6e9
"""FLOPs a token, those of a billion parameters. The default of --mfu is for models that have as many; on one H100
BERT-base reached 0.26 and tiny 0.03 (BENCHMARKS.md)."""
DEFAULT_PROCESSORS = {("mlm",): "mlm", ("lm",): "lm", ("bilm",): "bilm", ("mlm", "sp"): "bert"}


@dataclass(frozen=True)
class Rows:
    """What the batches are: the processor that makes them, and the mean number of tokens of a row."""

    processor: Processor
    vocab_size: int
    length: float

    @property
    def tgt_vocab_size(self) -> int | None:
        """Entries of the target side's vocabulary; None where there is no other."""
        return self.processor.vocabs["tgt"].size if "tgt" in self.processor.vocabs else None


def assumed_rows(config: ModelConfig, processor: str | None, vocab_size: int, special_ids: dict[str, int]) -> Rows:
    """Full rows of the model's longest length, where there is no dataset.

    Raises:
        UserError: the targets do not say which processor makes the batches, or it has no labels for one of them.
    """
    name = processor or DEFAULT_PROCESSORS.get(tuple(config.target))
    if name is None:
        raise UserError(f"--dry_run: no dataset says how batches of --target {' '.join(config.target)} are made; give "
                        "--data_processor or --dataset_path")
    kind = choose(PROCESSORS, name, "--data_processor")
    check_targets(config.target, name, kind.labels)
    length = config.max_seq_length
    made = kind(length, kind.config_class(), {"src": VocabInfo("", vocab_size, special_ids)})
    return Rows(made, vocab_size, made.batch_lengths()["src"])


def plan_lines(model: ModelConfig, train: TrainConfig, parallel: ParallelConfig, rows: Rows,
               teacher: ModelConfig | None = None) -> list[str]:
    """The plan as it is printed.

    Args:
        teacher: its settings, where there is one.

    Raises:
        UserError: the GPU is unknown, or the mesh does not fit the model or the number of ranks.
    """
    if parallel.world_size % parallel.tensor_parallel_size:
        raise UserError(f"--tensor_parallel_size {parallel.tensor_parallel_size} does not divide --world_size "
                        f"{parallel.world_size}")
    gpu = _gpu(train.device_name)
    precision = train.precision if train.precision != "auto" else automatic(gpu is None or gpu.bf16)

    def memory(batch_size: int) -> Memory:
        found = memory_of(model, rows.vocab_size, rows.processor, batch_size, parallel, TYPES.get(precision))
        return replace(found, teacher=_teacher_bytes(teacher, rows, batch_size)) if teacher else found

    per_token = flops_per_token(model, rows.vocab_size, rows.length, rows.processor) + (
        forward_flops_per_token(teacher, rows.vocab_size, rows.length, rows.processor) if teacher else 0)
    data_ranks = parallel.world_size // parallel.tensor_parallel_size
    parameters = parameter_count(model, rows.vocab_size, rows.tgt_vocab_size)
    return [f"plan: {parameters:,} parameters on {parallel.world_size} x {train.device_name or 'any device'}: "
            f"{data_ranks} batch{'es' * (data_ranks > 1)} at a time, each on "
            f"{parallel.tensor_parallel_size}; sharding {parallel.sharding}, activation checkpointing "
            f"{parallel.activation_checkpointing}, {precision}",
            *_memory_lines(memory, train, rows, gpu),
            *_time_lines(model, train, parallel, rows, precision, gpu, per_token),
            *_loss_lines(model, train, parallel, rows)]


def _teacher_bytes(teacher: ModelConfig, rows: Rows, batch_size: int) -> int:
    lengths = rows.processor.batch_lengths()
    return teacher_bytes(teacher, rows.vocab_size, batch_size * lengths["src"], rows.tgt_vocab_size,
                         batch_size * lengths.get("tgt", 0))


def _memory_lines(memory: Callable[[int], Memory], train: TrainConfig, rows: Rows, gpu: Gpu | None) -> list[str]:
    """Memory by part, and the largest batch."""
    found = memory(train.batch_size)
    lengths = " + ".join(f"{length:,}" for length in rows.processor.batch_lengths().values())
    lines = [f"memory of a device, for a micro-batch of {train.batch_size} x {lengths} tokens:"]
    parts = ["weights", "gradients", "moments", "activations", "logits", *["recomputed"] * bool(found.recomputed),
             *["teacher"] * bool(found.teacher)]
    lines += [f"    {part:12}{getattr(found, part) / 2**30:10.2f} GiB" for part in parts]
    lines.append(f"    {'in all':12}{found.total / 2**30:10.2f} GiB"
                 + (" at most; the larger one of logits and recomputed counts" if found.recomputed else " at most"))
    if found.host:
        lines.append(f"memory of the host for each device (--cpu_offload): {found.host / 2**30:.2f} GiB of weights, "
                     "gradients and moments")
    if gpu:
        room = int(FILLED * gpu.memory_gib * 2**30) - FIXED_BYTES
        most = largest_batch(memory, room)
        lines.append(f"largest --batch_size in {gpu.memory_gib:g} GiB, of which {room / 2**30:.0f} are planned for: "
                     + (f"{most:,}" if most else f"none; one row needs {memory(1).total / 2**30:.0f} GiB"))
    return lines


def _time_lines(model: ModelConfig, train: TrainConfig, parallel: ParallelConfig, rows: Rows, precision: str,
                gpu: Gpu | None, per_token: float) -> list[str]:
    """Operations, `per_token` of them a token, communication and hours."""
    update = rows_of_update(train, parallel)
    tokens = update * train.total_steps * rows.length
    lines = [f"compute: {per_token / 1e9:.3g} GFLOP a token, {count(tokens)} tokens in "
             f"{amount(train.total_steps, 'update')} of {amount(update, 'row')}, {per_token * tokens:.2e} FLOP in all"]
    peak = train.peak_flops or (gpu.peak_flops(precision) if gpu else 0.0)
    if peak:
        needed = per_token * tokens / (parallel.world_size * peak * train.mfu)
        small = "; a small model reaches less" if per_token < LARGE_MODEL else ""
        at = f"at {train.mfu:.0%} of {parallel.world_size} x {peak / 1e12:.4g} TFLOP/s (--mfu, assumed{small})"
        if gpu and parallel.world_size > 1:
            found = communication_of(model, train, parallel, rows, precision)
            waiting = train.total_steps * found.exposed(needed / train.total_steps)
            return [*lines, found.line(gpu.link_bandwidth), f"time: {hours((needed + waiting) / 3600)}: "
                    f"{hours(needed / 3600)} {at}, and {hours(waiting / 3600)} of communication; nothing is added for "
                    "checkpoints"]
        lines.append(f"time: {hours(needed / 3600)} {at}; nothing is added for checkpoints"
                     + " and communication" * (parallel.world_size > 1))
    return lines


def _loss_lines(model: ModelConfig, train: TrainConfig, parallel: ParallelConfig, rows: Rows) -> list[str]:
    """The loss to expect of a run that starts with random weights, where a law is of its model or named."""
    if train.pretrained_model_path or train.decay_from:
        return []
    found = ((train.loss_law, read_law(train.loss_law, "--loss_law")) if train.loss_law else
             law_of(model, rows.vocab_size))
    if found is None:
        return []
    path, law = found
    tokens = rows_of_update(train, parallel) * train.total_steps * rows.length
    return [law.line(path, layer_parameters(model, rows.vocab_size), tokens)]


def rows_of_update(train: TrainConfig, parallel: ParallelConfig) -> int:
    """Rows of all data-parallel ranks' micro-batches."""
    return train.batch_size * train.accumulation_steps * (parallel.world_size // parallel.tensor_parallel_size)


@dataclass(frozen=True)
class Communication:
    """What each rank sends in an update, and how long it takes.

    Attributes:
        sent: part -> bytes.
        seconds: part -> seconds; the parts are those of `uer.planning.memory.Traffic`.
    """

    sent: dict[str, float]
    seconds: dict[str, float]

    def exposed(self, computing: float) -> float:
        """Seconds of an update in which a device waits. A layer needs its activations at once; gradients and weights
        travel while another layer computes, so that only what takes longer than `computing` (seconds) is waited for."""
        hidden = self.seconds["gradients"] + self.seconds["weights"]
        return self.seconds["activations"] + max(0.0, hidden - computing)

    def line(self, link: float) -> str:
        """The line of the plan; `link` is the bandwidth within a node."""
        parts = ", ".join(f"{part} {self.sent[part] / 1e9:.3g} GB in {self.seconds[part]:.3g} s" for part in self.sent
                          if self.sent[part])
        return (f"communication: in an update each device sends {parts}, at {LINK_EFFICIENCY:.0%} of {link / 1e9:g} "
                f"GB/s to others of a node of {NODE} and of {NETWORK_BANDWIDTH / 1e9:g} GB/s to other nodes (assumed); "
                "activations are waited for, the others travel while devices compute")


def communication_of(model: ModelConfig, train: TrainConfig, parallel: ParallelConfig, rows: Rows, precision: str
                     ) -> Communication:
    """The communication of an update. Weights and activations are exchanged for each of its micro-batches."""
    found = traffic_of(model, rows.vocab_size, rows.processor, train.batch_size, parallel, TYPES.get(precision))
    size, times = parallel.tensor_parallel_size, train.accumulation_steps
    devices, data_ranks = named_devices(train.device_name, parallel.world_size), parallel.world_size // size
    parts = {"gradients": (found.gradients, 1, data_ranks, size), "weights": (found.weights, times, data_ranks, size),
             "activations": (found.activations, times, size, 1)}
    return Communication({name: count * exchange.sent(ranks) for name, (exchange, count, ranks, _) in parts.items()},
                         {name: count * exchange_seconds(exchange, ranks, apart, devices)
                          for name, (exchange, count, ranks, apart) in parts.items()})


def exchange_seconds(exchange: Exchange, ranks: int, apart: int, devices: Devices) -> float:
    """Seconds of the exchanges, one after another, by the links that `all_reduce_seconds` assumes.

    Args:
        exchange: what is exchanged; all operations are taken to be of one size.
        ranks: of the group.
        apart: the group has every `apart`-th rank, so that a node of 8 has 8 / apart of them, and one at least. With
            2 x 8 ranks, those that have the same part of a model are on 2 nodes: all bytes pass the network.
        devices: their kind.
    """
    if ranks == 1 or not exchange.number:
        return 0.0
    size, inside = exchange.size / exchange.number, min(ranks, max(1, NODE // apart))
    share = size * NODE / inside  # such that each device's part between nodes is size / inside
    between = (all_reduce_seconds(share, NODE * math.ceil(ranks / inside), devices)
               - all_reduce_seconds(share, NODE, devices))
    return exchange.number / 2 * (all_reduce_seconds(size, inside, devices) + between)


def _gpu(name: str | None) -> Gpu | None:
    """The data sheet of a GPU; None where none is named."""
    if name is None:
        return None
    known = known_gpu(name)
    if known is None:
        raise UserError(f"--device_name: '{name}' is unknown; choose from: {', '.join(GPUS)}")
    return GPUS[known]
