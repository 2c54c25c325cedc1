"""The sections of `check_gpu.py` that run kernels by themselves, without a trainer. Not a command."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from _checks import dropped_fraction, packed_attention
from _gpu_job import Job, kernel_ms
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from uer.layers.layout import packed_layout
from uer.layers.masks import Rule
from uer.layers.view import Heads, View

DROPOUT = 0.1


def attention(job: Job) -> None:
    """Which kernel runs, which dropout it really applies, how fast it is with and without a mask, and rows that lie end
    to end."""
    dtype = torch.bfloat16
    shapes = [(2, 2, 64, 32)] if job.quick else [(64, 12, 128, 64), (16, 12, 512, 64), (64, 2, 128, 64)]
    backends = (None, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION)
    for shape, backend, masked in itertools.product(shapes, backends if job.cuda else (None,), (True, False)):
        if job.facts.out_of_time(f"{shape} {backend}", 3.0):
            return
        rows, _, length, _ = shape
        mask = torch.zeros(rows, 1, 1, length, device=job.device, dtype=dtype) if masked else None
        name = f"{'x'.join(map(str, shape))} {backend.name if backend else 'chosen by torch'}" + " masked" * masked
        try:
            with sdpa_kernel(backend) if backend else nullcontext():
                dropped = dropped_fraction(job.device, dtype, mask, shape)
                milliseconds = kernel_ms(attention_work(shape, mask, job.device), job.device, 2 if job.quick else 20)
        except RuntimeError as error:
            job.facts.info(name, refused=str(error).splitlines()[0][:90])
            continue
        figures = {"dropped": dropped, "wanted": DROPOUT, "forward_backward_ms": milliseconds}
        if backend is None:  # the others are not what training runs
            job.facts.check(abs(dropped - DROPOUT) < 0.02, name, **figures)
        else:
            job.facts.info(name, **figures)
    if job.cuda:
        variable_length(job)


def attention_work(shape: tuple[int, ...], mask: Any, device: str) -> Callable[[], Any]:
    """A forward and backward pass of attention."""
    rows, heads, length, size = shape
    query, key, value = (torch.randn(rows, length, heads, size, device=device, dtype=torch.bfloat16).transpose(1, 2)
                         .requires_grad_() for _ in range(3))

    def work() -> None:
        output = F.scaled_dot_product_attention(query, key, value, mask, DROPOUT)
        output.backward(output.detach())

    return work


def variable_length(job: Job, rows: int = 64, length: int = 64, heads: int = 12) -> None:
    """The flash kernel on rows end to end: its time, and whether it equals attention of each row by itself."""
    packed = torch.randn(rows * length, 3, heads, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    bounds = torch.arange(0, rows * length + 1, length, device="cuda", dtype=torch.int32)
    query, key, value = (part.view(rows, length, heads, 64).transpose(1, 2) for part in packed.detach().unbind(1))
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float()).transpose(1, 2)
    with torch.no_grad():
        output = packed_attention(packed, bounds, length, 0.0)
    worst = float((output.view(rows, length, heads, 64).float() - expected).abs().max())

    def work() -> None:
        found = packed_attention(packed, bounds, length, DROPOUT)
        found.backward(found.detach())

    job.facts.check(worst < 0.05, "rows end to end", worst=worst, forward_backward_ms=kernel_ms(work, "cuda"),
                    otherwise="--unpad off")
    fillers(job)


def fillers(job: Job) -> None:
    """Sequences of fillers, some of them without keys: what the kernel computes for them is finite, whatever was in
    memory before, and so is every gradient."""
    wrong, length = 0, 128
    for seed in range(3):
        real = torch.randint(5, length, (20,), generator=torch.Generator().manual_seed(seed))
        seg = (torch.arange(length) < real[:, None]).long().cuda()
        layout = packed_layout(seg, int(real.sum()) + (3, 200, 700)[seed], 600, 20)
        wanted = layout.queries(torch.zeros(20, 9, device="cuda").long(), torch.rand(20, 9, device="cuda") < 0.5)
        tokens = torch.randn(len(layout.index), 6 * 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        heads = Heads(2, 2, 64, 0.125)
        for narrowed in (False, True):
            torch.full((1 << 26,), torch.nan, device="cuda")  # its memory is used next
            view = View(Rule(), layout)
            if narrowed:
                query, packed = view.narrowed(wanted).select(tokens[:, :128]), tokens[:, 128:]
                output, _ = view.narrowed(wanted).attend(query, packed, heads, DROPOUT)
            else:
                output, _ = view.attend(None, tokens, heads, DROPOUT)
            gradient, = torch.autograd.grad(output.float().square().sum(), tokens)
            wrong += int((~output.isfinite()).sum() + (~gradient.isfinite()).sum())
    job.facts.check(wrong == 0, "fillers are finite", wrong=wrong, otherwise="--unpad off")


def embedding_backward(job: Job) -> None:
    """Gradients of tables with many and with few rows: on a GPU, atomic additions to one row wait for one another."""
    tokens, width = 8192, 128
    for name, rows in {"word": 21128, "position": 128, "segment": 2}.items():
        table = torch.randn(rows, width, device=job.device, requires_grad=True)
        ids = torch.randint(0, rows, (tokens,), device=job.device)
        gradient = torch.randn(tokens, width, device=job.device)

        def work(table: Any = table, ids: Any = ids, gradient: Any = gradient) -> None:
            F.embedding(ids, table).backward(gradient)

        job.facts.info(f"embedding of {rows} rows ({name}), forward and backward",
                       ms=kernel_ms(work, job.device, 2 if job.quick else 20))
