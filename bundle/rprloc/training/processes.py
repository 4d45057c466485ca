"""Training in several processes that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from rprloc.model.device import choose_device


def join_training() -> torch.device:
    """This process's device in a training that torchrun started: a GPU each, or the CPU where there is none.

    Joins the process group, over NCCL on GPUs and Gloo on CPUs, if that was not done before.
    """
    cuda = choose_device("auto").type == "cuda"
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def rank_and_processes() -> tuple[int, int]:
    """This process's number in its group, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def one_process_first() -> Iterator[None]:
    """In a process group, let the first process do the block before the others, which then find what it has kept."""
    rank, processes = rank_and_processes()
    if processes > 1 and rank > 0:
        distributed.barrier()
    yield
    if processes > 1 and rank == 0:
        distributed.barrier()
