"""A hand-written training step, captured once as a CUDA graph, for comparison with the training loop of eatnas-db.

Indices, shifts and rates are tables on the device, and a counter there selects the row. A replay copies nothing from
the host. On the CPU, each step runs without a graph.
"""

from __future__ import annotations

import time

import torch
from networks import make_model
from torch.nn.functional import cross_entropy, pad

from eatnas_training.data.resident import ResidentPart

WARM_UP_STEPS = 3


class HandStep:
    """A network, its optimizer, and the captured step."""

    def __init__(
        self,
        code: str,
        space: str,
        images: ResidentPart,
        *,
        batch_size: int,
        precision: str,
        steps: int = 20_000,
        channels_last: bool = True,
    ) -> None:
        self._images, self._batch_size, self._bfloat16 = images, batch_size, precision == "bfloat16"
        self._device = images.labels.device
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._layout = layout
        self.model = make_model(code, space, str(self._device)).to(memory_format=layout)  # type: ignore[call-overload]
        self._rate = torch.zeros((), device=self._device)
        self._optimizer = torch.optim.SGD(
            self.model.parameters(), lr=self._rate, momentum=0.9, nesterov=True, weight_decay=4e-5, fused=True
        )
        count, side = len(images.labels), images.images.shape[2]
        self._reach = max(1, side // 8)
        draws = torch.Generator().manual_seed(1)
        chosen = torch.randint(0, count, (steps, 1, batch_size), generator=draws)
        shifts = torch.randint(0, 2 * self._reach + 1, (steps, 2, batch_size), generator=draws)
        mirrored = torch.randint(0, 2, (steps, 1, batch_size), generator=draws)
        self._table = torch.cat((chosen, shifts, mirrored), 1).to(self._device)
        self._rates = torch.linspace(0.05, 0.001, steps).to(self._device)
        self._at = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        self._line = torch.arange(side, device=self._device)
        self._image = torch.arange(batch_size, device=self._device)[:, None, None]
        self._graph: torch.cuda.CUDAGraph | None = None

    def call(self) -> None:
        """Compute a step without the graph."""
        self._optimizer.zero_grad(set_to_none=True)
        self._compute()

    def _compute(self) -> None:
        chosen, down, across, mirrored = self._table.index_select(0, self._at)[0]
        self._rate.copy_(self._rates.index_select(0, self._at)[0])
        rows, columns = down[:, None] + self._line, across[:, None] + self._line
        columns = torch.where(mirrored[:, None] > 0, columns.flip(1), columns)
        padded = pad(self._images.images[chosen], (self._reach,) * 4).permute(0, 2, 3, 1)
        pixels = padded[self._image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        images = ((pixels.float() - self._images.mean) * self._images.scale).contiguous(memory_format=self._layout)
        labels = self._images.labels[chosen]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self.model(images)
            loss = cross_entropy(logits, labels, label_smoothing=0.1)
        loss.backward()
        self._optimizer.step()
        correct = (logits.detach().argmax(1) == labels).sum()
        self._sums[0] += loss.detach() * self._batch_size
        self._sums[1] += correct
        self._sums[2] += self._batch_size
        self._at += 1

    def capture(self) -> float:
        """Warm up and capture the step; return the seconds of the capture alone."""
        if self._device.type != "cuda":
            self.call()
            return 0.0
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self.call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        started = time.perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._compute()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    def step(self) -> None:
        """Compute a step: replay the graph if there is one."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self.call()
