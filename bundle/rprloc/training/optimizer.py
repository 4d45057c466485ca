"""The optimizer of both Pnets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from rprloc.model.network import Pnet
from rprloc.training.config import TrainingConfig
from rprloc.training.processes import rank_and_processes


class Optimizer:
    """Muon for the weights of the convolutions, AdamW for all else, under one schedule.

    Muon (Jordan et al., 2024) makes an update's singular values alike. The inputs of a filter are all positive, so
    gradients of many filters share one large direction, the mean; Adam follows it, after which all places have the same
    features for long. Measured on the coarse net after 200 steps: loss 0.31 with AdamW, 0.21 with Muon.
    """

    def __init__(self, net: Pnet, config: TrainingConfig, steps: int) -> None:
        net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._filters = [layer.weight for layer in net.trunk if isinstance(layer, nn.Conv3d)]
        # Muon takes matrices: views of the weights, one row a filter, which channels last makes possible.
        self._rows = [nn.Parameter(_as_rows(weight.detach())) for weight in self._filters]
        ours = {id(weight) for weight in self._filters}
        others = [parameter for parameter in net.parameters() if id(parameter) not in ours]
        rate, decay = config.learning_rate, config.weight_decay
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.Muon(self._rows, rate, decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, 0.5 * rate, weight_decay=decay),
        ]
        cycle = max(steps, 20)  # the schedule is not defined for a handful of steps
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimizer, optimizer.param_groups[0]["lr"], total_steps=cycle, pct_start=0.1, cycle_momentum=False
            )
            for optimizer in self._all
        ]

    def step(self, net: Pnet, loss: Tensor) -> None:
        net.zero_grad()
        loss.backward()
        processes = rank_and_processes()[1]
        if processes > 1:
            for parameter in net.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= processes
        for row, weight in zip(self._rows, self._filters, strict=True):
            row.grad = None if weight.grad is None else _as_rows(weight.grad)
        for optimizer, schedule in zip(self._all, self._schedules, strict=True):
            optimizer.step()
            schedule.step()

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._all] + [
            optimizer.state_dict() for optimizer in self._schedules
        ]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        for optimizer, schedule, saved, planned in zip(
            self._all, self._schedules, states[: len(self._all)], states[len(self._all) :], strict=True
        ):
            optimizer.load_state_dict(saved)
            schedule.load_state_dict(planned)


def _as_rows(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 4, 1).flatten(1)
