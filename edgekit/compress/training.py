"""The loop of fine-tuning: batches, loss, schedule, validation, and the best weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.compress.distill.objective import Objective
from edgekit.compress.samples import Augment, Samples, batches, check_augment, mirror, shift
from edgekit.compress.tuning import EpochRecord, FineTuned, Settings
from edgekit.errors import StepFailed
from edgekit.types import Emit, Event, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

_CACHED_BYTES = 512 << 20
_MAX_GRADIENT = 5.0
_TICKS_PER_EPOCH = 10


class Run:
    """One fine-tuning of ``student``, which is changed. Call :meth:`close` afterwards."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, task: Task, settings: Settings, emit: Emit
    ) -> None:
        self.student = student
        self.teacher = copy.deepcopy(teacher).eval() if teacher is not None else None
        self.classify = task == "classification"
        self.settings = settings
        self.emit = emit
        self.random = _generator(settings.seed + 1)
        self.objective: Objective | None = None
        self.after_step: list[Callable[[], None]] = []
        if not any(p.requires_grad for p in student.parameters()):
            raise StepFailed("the model has no trainable parameters", hint="leave fine-tuning away")
        if settings.precision == "bfloat16":
            self._last_channels()

    def _last_channels(self) -> None:
        """Convolutions in bfloat16 are fast in this layout only; values are the same."""
        import torch

        for module in (self.student, self.teacher):
            if module is not None and all(p.ndim != 5 for p in module.parameters()):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _optimizer(self) -> torch.optim.Optimizer:
        import torch

        assert self.objective is not None
        settings = self.settings
        trainable = [p for p in self.student.parameters() if p.requires_grad]
        trainable += self.objective.adapters.parameters()
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},  # biases and norms
        ]
        if settings.keep_zeros:
            masks = [(p, (p != 0).float()) for p in self.student.parameters() if p.ndim > 1]

            def zero_again() -> None:
                with torch.no_grad():
                    for parameter, mask in masks:
                        parameter.mul_(mask)

            self.after_step.append(zero_again)
        if settings.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(groups, lr=settings.lr)

    def fit(self, train: Samples, val: Samples) -> FineTuned:
        import torch

        settings = self.settings
        check_augment(settings.augment, train.inputs)
        self.student.eval()
        self.objective = Objective(
            self.student,
            self.teacher,
            settings.distillation,
            classify=self.classify,
            example=[x[:2] for x in train.inputs],
        )
        self.optimizer = self._optimizer()
        shuffle = _generator(settings.seed)
        if settings.augment != "flip-shift":  # there no input comes twice
            self._remember_answers(train, mirrored=settings.augment == "flip")
        self._remember_answers(val, mirrored=False)
        count = len(list(batches(len(train), settings.batch_size, torch.Generator())))
        total = count * settings.epochs
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=total)
        records = [self._validate(0, None, val)]
        best, best_state = records[0], copy.deepcopy(self.student.state_dict())
        self._say(records[0], 0, total)
        for epoch in range(1, settings.epochs + 1):
            loss = self._train_epoch(epoch, train, shuffle, schedule, count)
            record = self._validate(epoch, loss, val)
            records.append(record)
            self._say(record, epoch * count, total)
            if settings.bn_l1 or _merit(record) > _merit(best):  # sparsity is the aim there, at some cost
                best, best_state = record, copy.deepcopy(self.student.state_dict())
            elif epoch - best.epoch >= settings.patience:
                break
        self.student.load_state_dict(best_state)
        self.student.zero_grad(set_to_none=True)
        if settings.precision == "bfloat16":
            self.student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return FineTuned(
            module=self.student.eval(),
            history=tuple(records),
            best_epoch=best.epoch,
            stopped_early=records[-1].epoch < settings.epochs,
            train_n=len(train),
            val_n=len(val),
            matched=tuple(f"{a}:{b}" for a, b in self.objective.pairs),
        )

    def close(self) -> None:
        """Take the hooks of feature distillation from both models."""
        if self.objective is not None:
            self.objective.close()

    def _train_epoch(
        self, epoch: int, data: Samples, shuffle: torch.Generator, schedule: Any, count: int
    ) -> float:
        import torch

        self.student.train()
        if epoch > self.settings.freeze_bn * self.settings.epochs:
            for module in self.student.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
                freeze: Any = getattr(module, "freeze_statistics", None)
                if freeze is not None:  # an exported graph has no modules of batch norm
                    freeze()
        total = 0.0
        seen = 0
        tick = max(1, count // _TICKS_PER_EPOCH)
        for number, rows in enumerate(batches(len(data), self.settings.batch_size, shuffle), 1):
            loss = self._loss(data, rows, epoch, augment=self.settings.augment)[0]
            value = float(loss.detach())
            if not math.isfinite(value):
                raise StepFailed(
                    f"the fine-tuning loss became {value} in epoch {epoch}, batch {number}",
                    hint=f"lower the learning rate (--set finetune.lr={self.settings.lr / 10:g})",
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._shrink_scales()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), _MAX_GRADIENT)
            self.optimizer.step()
            for action in self.after_step:
                action()
            schedule.step()
            total += value * len(rows)
            seen += len(rows)
            if number % tick == 0 and number < count:
                done = (epoch - 1) * count + number
                progress = {"done": done, "total": count * self.settings.epochs, "loss": total / seen}
                self.emit(Event(kind="progress", step="finetune", data={**progress, "epoch": epoch}))
        return total / seen

    def _shrink_scales(self) -> None:
        """Add the slope of the L1 norm of batch norm's scales to their gradients."""
        import torch

        if self.settings.bn_l1 == 0:
            return
        for module in self.student.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.affine:
                scale = module.weight
                if scale.grad is not None:
                    scale.grad.add_(scale.detach().sign(), alpha=self.settings.bn_l1)

    def _validate(self, epoch: int, train_loss: float | None, data: Samples) -> EpochRecord:
        import torch

        self.student.eval()
        total, right = 0.0, 0
        with torch.no_grad():
            for rows in torch.split(torch.arange(len(data)), self.settings.batch_size):
                loss, outputs = self._loss(data, rows, epoch, augment="none")
                total += float(loss) * len(rows)
                if self.classify and data.labels is not None:
                    right += int((outputs[0].argmax(1) == data.labels[rows]).sum())
        judged = self.classify and data.labels is not None
        accuracy = 100.0 * right / len(data) if judged else None
        loss_value = total / len(data)
        if not math.isfinite(loss_value):
            raise StepFailed(
                f"the validation loss is {loss_value} in epoch {epoch}",
                hint=f"lower the learning rate (--set finetune.lr={self.settings.lr / 10:g})",
            )
        return EpochRecord(epoch=epoch, train_loss=train_loss, val_loss=loss_value, val_accuracy=accuracy)

    def _loss(
        self, data: Samples, rows: torch.Tensor, epoch: int, *, augment: Augment
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        import torch

        inputs, mirrored = data.rows(rows), None
        if augment != "none":
            mirrored = torch.rand(len(rows), generator=self.random) < 0.5
            inputs = [mirror(inputs[0], mirrored)]
        if augment == "flip-shift":
            inputs = [shift(inputs[0], self.random)]
        inputs = self._laid_out(inputs)
        with self._autocast():
            outputs = _forward(self.student, inputs, f"epoch {epoch} of fine-tuning")
        answers = None
        if self.teacher is not None:
            answers = data.answers_of(rows, mirrored) if augment != "flip-shift" else None
            if answers is None:
                answers = self._answers(inputs)
            if [o.shape for o in outputs] != [a.shape for a in answers]:
                raise StepFailed(
                    f"the model gives outputs of shape {[tuple(o.shape) for o in outputs]} in training, "
                    f"its teacher {[tuple(a.shape) for a in answers]} in use",
                    hint="leave auxiliary training outputs out of forward",
                )
        labels = None if data.labels is None else data.labels[rows]
        assert self.objective is not None
        return self.objective.loss(outputs, answers, labels), outputs

    def _laid_out(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        import torch

        if self.settings.precision != "bfloat16":
            return inputs
        return [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]

    def _autocast(self) -> Any:
        import torch

        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def _answers(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        import torch

        assert self.teacher is not None
        with torch.no_grad(), self._autocast():
            return [t.float() for t in _forward(self.teacher, inputs, "the teacher's forward pass")]

    def _remember_answers(self, data: Samples, *, mirrored: bool) -> None:
        """Compute the teacher's answers once, where that can serve and does not take too much memory."""
        import torch

        if self.teacher is None or self.settings.distillation.reads_features:
            return
        one = self._answers(self._laid_out([x[:1] for x in data.inputs]))
        versions = 2 if mirrored else 1
        if versions * sum(t.numel() * t.element_size() for t in one) * len(data) > _CACHED_BYTES:
            return
        answers = []
        for flipped in (False, True)[:versions]:
            parts = []
            for rows in torch.split(torch.arange(len(data)), self.settings.batch_size):
                inputs = data.rows(rows)
                if flipped:
                    inputs = [x.flip(3) for x in inputs]
                parts.append(self._answers(self._laid_out(inputs)))
            answers.append([torch.cat(columns) for columns in zip(*parts, strict=True)])
        data.answers = answers

    def _say(self, record: EpochRecord, done: int, total: int) -> None:
        data = {
            "done": done,
            "total": total,
            "epoch": record.epoch,
            "loss": record.val_loss,
            "accuracy": record.val_accuracy,
        }
        self.emit(Event(kind="progress", step="finetune", message=_sentence(record), data=data))


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _forward(module: nn.Module, inputs: list[torch.Tensor], doing: str) -> list[torch.Tensor]:
    from edgekit.sources.callables import blame
    from edgekit.sources.inspection import flatten_outputs

    try:
        return [tensor for _, tensor in flatten_outputs(module(*inputs))]
    except Exception as exc:
        where = blame(exc)
        lines = str(exc).strip().splitlines() or [""]
        raise StepFailed(
            f"{doing} failed{f' at {where}' if where else ''} with inputs of shape "
            f"{[tuple(x.shape) for x in inputs]}: {type(exc).__name__}: {lines[0][:300]}",
            hint="the model must run in training mode and in batches; or leave --train away",
        ) from exc


def _merit(record: EpochRecord) -> tuple[float, float]:
    return (record.val_accuracy if record.val_accuracy is not None else 0.0, -record.val_loss)


def _sentence(record: EpochRecord) -> str:
    accuracy = "" if record.val_accuracy is None else f", top-1 {record.val_accuracy:.2f} %"
    return f"epoch {record.epoch}: validation loss {record.val_loss:.4f}{accuracy}"
