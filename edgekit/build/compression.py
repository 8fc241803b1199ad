"""The steps that map a torch module to a torch module, stored as data and rebuilt from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgekit.backends.onnx_export import tool_versions
from edgekit.build.inputs import Inputs
from edgekit.build.runner import Runner
from edgekit.errors import StepFailed
from edgekit.types import Emit, Plan, Scheme

if TYPE_CHECKING:
    import torch

    from edgekit.sources.models import LoadedModel


_TRAINING = ("finetune", "qat")


class Compressed:
    """The module after compression, built only when a later step needs it.

    Each step starts from the weights and the structure that the one before has left. ``sha256`` names
    the module: the original's (or the student's) digest, or that of the weights after the last step.
    ``depth``, ``pruning``, ``lowrank``, ``sparsity``, ``finetuning``, ``qat`` are the steps' results, None
    where they were not planned; ``qat_config`` is what that training was asked for. ``before_training`` is
    called once when the structure is final and the first step that trains it comes next.
    """

    def __init__(
        self,
        inputs: Inputs,
        runner: Runner,
        plan: Plan,
        before_training: Callable[[Compressed], None] | None = None,
    ) -> None:
        self._inputs = inputs
        self._runner = runner
        self._base: LoadedModel = inputs.student or inputs.model
        self.sha256 = self._base.spec.sha256
        self.params, self.macs = self._base.spec.params, self._base.spec.macs
        self.depth: Mapping[str, Any] | None = None
        self.pruning: Mapping[str, Any] | None = None
        self.lowrank: Mapping[str, Any] | None = None
        self.sparsity: Mapping[str, Any] | None = None
        self.finetuning: Mapping[str, Any] | None = None
        self.qat: Mapping[str, Any] | None = None
        self.qat_config: Mapping[str, Any] | None = None
        self._weights: str | None = None
        steps: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "depth": self._remove_blocks,
            "shrink": self._shrink,
            "prune": self._prune,
            "lowrank": self._factorise,
            "sparsify": self._sparsify,
            "finetune": self._finetune,
            "qat": self._train_quantised,
        }
        for step in plan.steps:
            if step.name in _TRAINING and before_training is not None:
                before_training(self)
                before_training = None
            if step.name in steps:
                result = steps[step.name](step.config)
                self._weights = self.sha256 = str(result["weights"])

    @property
    def changed(self) -> bool:
        """Whether what is shipped is anything else than the original."""
        return self._weights is not None or self._inputs.student is not None

    def scheme(self, planned: Scheme) -> Scheme:
        """The planned scheme, with trained ranges where there are any and the file is int8."""
        if self.qat is None or planned.precision != "int8":
            return planned
        rows = tuple(tuple(float(v) for v in row) for row in self.qat["ranges"])
        return replace(planned, calibration="minmax", trained=rows)  # type: ignore[arg-type]

    def trained(self, config: Mapping[str, Any], emit: Emit | None = None) -> Compressed:
        """This module after quantisation-aware training, which plans with a "qat" step do in any case.

        ``emit`` hears of its progress in place of the build's; what it raises ends the training.
        """
        made = copy.copy(self)
        made._weights = made.sha256 = str(made._train_quantised(config, emit)["weights"])
        return made

    def training_known(self, config: Mapping[str, Any]) -> bool:
        """Whether :meth:`trained` would find its result in the cache."""
        return self._runner.knows("qat", self._qat_key(config))

    def training_seconds(self, config: Mapping[str, Any]) -> float:
        """About how long one epoch of :meth:`trained` takes on this machine, from a few of its batches."""
        from edgekit.compress.qat import seconds_per_epoch

        how = self._qat_arguments(config)
        with _quantiser():
            return seconds_per_epoch(self.module(), self._teacher(), **how)

    def module(self) -> torch.nn.Module:
        """The compressed module, in eval mode."""
        base = self._base.module
        if base is None:
            raise StepFailed("an ONNX model has no torch module")
        if self._weights is None:
            return base
        from safetensors.torch import load_file

        from edgekit.compress.depth import apply_depth
        from edgekit.compress.history import load_weights, reshape
        from edgekit.compress.lowrank import apply_lowrank

        module = copy.deepcopy(base).eval()
        if self.depth is not None:
            module = apply_depth(module, self.depth["record"])
        if self.pruning is not None:
            module = reshape(module, self.pruning["history"])
        if self.lowrank is not None:
            module = apply_lowrank(module, self.lowrank["record"])
        return load_weights(module, load_file(str(self._runner.store.get(self._weights))))

    def _key(self, config: Mapping[str, Any], *tools: str, train: bool = False) -> dict[str, Any]:
        """What the result of a step depends on, besides its name and edgekit itself."""
        key: dict[str, Any] = {
            "model": self.sha256,
            "shapes": [list(x.shape) for x in self._base.example_inputs],
            "config": config,
            "tools": tool_versions("torch", *tools),
        }
        # Weights alone do not say the structure once layers have been replaced.
        if self.depth is not None:
            key["depth"] = self.depth["record"]
        if self.lowrank is not None:
            key["lowrank"] = self.lowrank["record"]
        if train:
            data = self._inputs.datas.get("train")
            teacher = self._inputs.teacher or self._inputs.model
            key |= {
                "train": None if data is None else data.sha256,
                "task": self._inputs.model.spec.task,
                "teacher": teacher.spec.sha256,
                "seed": self._runner.seed,
            }
        return key

    def _remove_blocks(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        runner, datas = self._runner, self._inputs.datas
        probe = datas.get("train") or datas.get("calib")

        def work() -> dict[str, Any]:
            from edgekit.compress.depth import remove_blocks

            made = remove_blocks(
                self.module(), self._base.example_inputs, probe=probe, emit=runner.emit, **config
            )
            weights = self._put_weights(made.module)
            return {
                "objects": [weights],
                "weights": weights,
                "record": made.record,
                "removed": [asdict(r) for r in made.removed],
                "params_after": made.params_after,
                "macs_after": made.macs_after,
            }

        key = self._key(config)
        if config["blocks"]:
            key["probe"] = None if probe is None else probe.sha256
        self.depth = runner.run("depth", key, work)
        self._count(self.depth)
        return self.depth

    def _prune(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        runner, base = self._runner, self._base
        details = dict(config)
        step_epochs, tuning = details.pop("step_epochs", 1), details.pop("finetune", {})

        def work() -> dict[str, Any]:
            from edgekit.compress.finetune import Settings, finetune
            from edgekit.compress.prune import prune

            def recover(module: torch.nn.Module, step: int) -> torch.nn.Module:
                settings = Settings(seed=runner.seed + step, **{**tuning, "epochs": step_epochs})
                return finetune(
                    module,
                    self._teacher(),
                    self._inputs.datas["train"],
                    task=base.spec.task,
                    settings=settings,
                    emit=runner.emit,
                ).module

            pruned = prune(
                self.module(),
                base.example_inputs,
                probe=self._inputs.datas.get("train"),
                task=base.spec.task,
                recover=recover,
                seed=runner.seed,
                emit=runner.emit,
                **details,
            )
            weights = self._put_weights(pruned.module)
            return {
                "objects": [weights],
                "weights": weights,
                "history": pruned.history,
                "groups": [asdict(g) for g in pruned.groups],
                "coupled": [asdict(g) for g in pruned.coupled],
                "kept": dict(pruned.kept),
                "schedule": list(pruned.schedule),
                "params_after": pruned.params_after,
                "macs_after": pruned.macs_after,
            }

        usual = {"ratio", "round_to", "ignore"}  # looks at weights only
        key = self._key(config, "torch-pruning", train=bool(set(config) - usual))
        self.pruning = runner.run("prune", key, work)
        self._count(self.pruning)
        return self.pruning

    def _factorise(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        runner = self._runner

        def work() -> dict[str, Any]:
            from edgekit.compress.lowrank import factorise, to_json

            made = factorise(self.module(), self._base.example_inputs, emit=runner.emit, **config)
            weights = self._put_weights(made.module)
            return {
                "objects": [weights],
                "weights": weights,
                "record": made.record,
                "params_after": made.params_after,
                "macs_after": made.macs_after,
                **to_json(made),
            }

        self.lowrank = runner.run("lowrank", self._key(config), work)
        self._count(self.lowrank)
        return self.lowrank

    def _sparsify(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        runner = self._runner

        def work() -> dict[str, Any]:
            from edgekit.compress.sparsity import sparsify

            sparse = sparsify(self.module(), seed=runner.seed, **config)
            weights = self._put_weights(sparse.module)
            return {
                "objects": [weights],
                "weights": weights,
                "share": sparse.share,
                "layers": [asdict(r) for r in sparse.layers],
                "kept": dict(sparse.kept),
            }

        self.sparsity = runner.run("sparsify", self._key({**config, "seed": runner.seed}), work)
        return self.sparsity

    def _finetune(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        self.finetuning = self._tune("finetune", config)
        return self.finetuning

    def _shrink(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._tune("shrink", config)

    def _tune(self, name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        runner, train = self._runner, self._inputs.datas["train"]

        def work() -> dict[str, Any]:
            from edgekit.compress.finetune import Settings, finetune

            tuned = finetune(
                self.module(),
                self._teacher(),
                train,
                task=self._inputs.model.spec.task,
                settings=Settings(seed=runner.seed, **config),
                emit=runner.emit,
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
                "matched": list(tuned.matched),
            }

        return runner.run(name, self._key(config, train=True), work)

    def _qat_arguments(self, config: Mapping[str, Any]) -> dict[str, Any]:
        from edgekit.compress.finetune import Settings

        details, datas = dict(config), self._inputs.datas
        of_the_file = {key: details.pop(key) for key in ("per_channel", "symmetric", "weight_max")}
        return {
            "train": datas["train"],
            "calibration": datas["calib"],
            "task": self._inputs.model.spec.task,
            "settings": Settings(seed=self._runner.seed, **details),
            **of_the_file,
        }

    def _qat_key(self, config: Mapping[str, Any]) -> dict[str, Any]:
        calib = self._inputs.datas["calib"].sha256
        return {**self._key(config, "torchao", "executorch", train=True), "calib": calib}

    def _train_quantised(self, config: Mapping[str, Any], emit: Emit | None = None) -> Mapping[str, Any]:
        runner = self._runner

        def work() -> dict[str, Any]:
            from edgekit.compress.qat import qat

            with _quantiser():
                how = self._qat_arguments(config)
                made = qat(self.module(), self._teacher(), **how, emit=emit or runner.emit)
            weights = self._put_weights(made.module)
            return {
                "objects": [weights],
                "weights": weights,
                "ranges": [[r.seen_lo, r.seen_hi, r.lo, r.hi] for r in made.ranges],
                "start": made.start,
                "history": [asdict(r) for r in made.history],
                "best_epoch": made.best_epoch,
            }

        self.qat, self.qat_config = runner.run("qat", self._qat_key(config), work), config
        return self.qat

    def _teacher(self) -> torch.nn.Module | None:
        """The user's teacher, else the original; None for an ONNX file."""
        return (self._inputs.teacher or self._inputs.model).module

    def _count(self, result: Mapping[str, Any]) -> None:
        self.params, self.macs = result["params_after"], result["macs_after"]

    def _put_weights(self, module: torch.nn.Module) -> str:
        from safetensors.torch import save

        tensors = {k: v.detach().clone().contiguous() for k, v in module.state_dict().items()}
        return self._runner.store.put_bytes(save(tensors))


@contextmanager
def _quantiser() -> Iterator[None]:
    """ExecuTorch's quantiser says where int8 is played, whatever the target; it is not quiet by itself."""
    from edgekit.backends.executorch.toolchain import quiet, require_executorch

    require_executorch()
    with quiet():
        yield
