"""The steps that map a torch module to a torch module, stored as data and rebuilt from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgekit.backends.onnx_export import tool_versions
from edgekit.build.inputs import Inputs
from edgekit.build.runner import Runner
from edgekit.errors import StepFailed
from edgekit.types import Plan

if TYPE_CHECKING:
    import torch


class Compressed:
    """The module after compression, built only when a later step needs it.

    ``sha256`` names it: the original's digest, or that of the stored weights after the last step.
    """

    def __init__(self, inputs: Inputs, runner: Runner, plan: Plan) -> None:
        self._inputs = inputs
        self._runner = runner
        self.sha256 = inputs.model.spec.sha256
        self.pruning: Mapping[str, Any] | None = None
        self.finetuning: Mapping[str, Any] | None = None
        self._weights: str | None = None
        prune = plan.step("prune")
        if prune is not None:
            self.pruning = self._prune(prune.config)
            self._weights = self.sha256 = str(self.pruning["weights"])
        tune = plan.step("finetune")
        if tune is not None:
            self.finetuning = self._finetune(tune.config)
            self._weights = self.sha256 = str(self.finetuning["weights"])

    @property
    def changed(self) -> bool:
        """Whether anything was done to the original."""
        return self._weights is not None

    @property
    def params(self) -> int | None:
        return self.pruning["params_after"] if self.pruning else self._inputs.model.spec.params

    @property
    def macs(self) -> int | None:
        return self.pruning["macs_after"] if self.pruning else self._inputs.model.spec.macs

    def module(self) -> torch.nn.Module:
        """The compressed module, in eval mode."""
        original = self._inputs.model.module
        if original is None:
            raise StepFailed("an ONNX model has no torch module")
        if self._weights is None or self.pruning is None:
            return original
        return self._rebuild(self.pruning["history"], self._weights)

    def _rebuild(self, history: Mapping[str, Any], weights: str) -> torch.nn.Module:
        from safetensors.torch import load_file

        from edgekit.compress.history import apply_history

        original = self._inputs.model.module
        assert original is not None
        return apply_history(original, history, load_file(str(self._runner.store.get(weights))))

    def _prune(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        runner, model = self._runner, self._inputs.model

        def work() -> dict[str, Any]:
            from edgekit.compress.prune import prune

            if model.module is None:
                raise StepFailed("an ONNX model cannot be pruned")
            pruned = prune(
                model.module,
                model.example_inputs,
                ratio=config["ratio"],
                round_to=config["round_to"],
                ignore=config["ignore"],
                emit=runner.emit,
            )
            weights = self._put_weights(pruned.module)
            return {
                "objects": [weights],
                "weights": weights,
                "history": pruned.history,
                "groups": [asdict(g) for g in pruned.groups],
                "kept": dict(pruned.kept),
                "params_before": pruned.params_before,
                "params_after": pruned.params_after,
                "macs_before": pruned.macs_before,
                "macs_after": pruned.macs_after,
            }

        inputs = {
            "model": self.sha256,
            "shapes": [list(x.shape) for x in model.example_inputs],
            "config": config,
            "tools": tool_versions("torch", "torch-pruning"),
        }
        return runner.run("prune", inputs, work)

    def _finetune(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        runner, model, train = self._runner, self._inputs.model, self._inputs.datas["train"]

        def work() -> dict[str, Any]:
            from edgekit.compress.finetune import Settings, finetune

            settings = Settings(seed=runner.seed, **config)
            tuned = finetune(
                self.module(), model.module, train, task=model.spec.task, settings=settings, emit=runner.emit
            )
            weights = self._put_weights(tuned.module)
            return {
                "objects": [weights],
                "weights": weights,
                "history": [asdict(r) for r in tuned.history],
                "best_epoch": tuned.best_epoch,
                "stopped_early": tuned.stopped_early,
                "train_n": tuned.train_n,
                "val_n": tuned.val_n,
            }

        inputs = {
            "model": self.sha256,
            "teacher": model.spec.sha256,
            "train": train.sha256,
            "task": model.spec.task,
            "config": config,
            "tools": tool_versions("torch"),
        }
        return runner.run("finetune", inputs, work)

    def _put_weights(self, module: torch.nn.Module) -> str:
        from safetensors.torch import save

        tensors = {k: v.detach().clone().contiguous() for k, v in module.state_dict().items()}
        return self._runner.store.put_bytes(save(tensors))
