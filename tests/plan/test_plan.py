"""What the planner decides, and what it refuses to decide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from edgekit.errors import Unsupported, UserError
from edgekit.plan import ALL, AUTO, DataFacts, Request, explain, make_plan, make_plans
from edgekit.profiles.loader import load_profile
from edgekit.settings import parse_settings
from edgekit.types import Gate, ModelSpec, Plan, Problem, to_json

Situations = dict[str, DataFacts]


def plan_for(model: ModelSpec, data: DataFacts, *settings: str, profile: str = "pi4", **request: Any) -> Plan:
    return make_plan(
        load_profile(profile), model, data, Request(settings=parse_settings(settings), **request)
    )


def reason(plan: Plan, alternative: str) -> str:
    (found,) = [r.reason for r in plan.rejected if r.alternative == alternative]
    return found


def gates(plan: Plan) -> dict[str, float]:
    return {g.name: g.limit for g in plan.gates}


class TestPrecision:
    def test_calibration_data_gives_int8(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib"])
        assert plan.scheme.precision == "int8"
        assert "twice the size" in reason(plan, "fp16")
        assert plan.warnings == ()

    def test_training_data_will_do_for_calibration(self, model: ModelSpec) -> None:
        assert plan_for(model, DataFacts(train=100)).scheme.precision == "int8"

    def test_operators_that_the_target_runs_faster_in_float32_stay_there(
        self, model: ModelSpec, situations: Situations
    ) -> None:
        def x86(*settings: str, target: str = "tflite") -> Plan:
            return plan_for(model, situations["calib"], *settings, profile="generic_x86_64", target=target)

        plan = x86()
        assert plan.scheme.float_ops == ("HARD_SWISH",)
        assert "faster in float32" in reason(plan, "HARD_SWISH in int8, where the model has such operators")
        assert x86("quantize.float_ops=none").scheme.float_ops == ()
        assert x86("quantize.float_ops=MUL,ADD").scheme.float_ops == ("MUL", "ADD")
        assert x86("quantize.precision=dynamic").scheme.float_ops == ()
        assert plan_for(model, situations["calib"]).scheme.float_ops == ()
        with pytest.raises(UserError, match="float_ops was set, but the file is float32"):
            x86("quantize.float_ops=MUL", "quantize.precision=float32")
        with pytest.raises(Unsupported, match=r"no operator 'HARDSWISH'.*did you mean HARD_SWISH"):
            x86("quantize.float_ops=HARDSWISH")
        with pytest.raises(Unsupported, match=r"operators of \.tflite files, not of ONNX"):
            x86("quantize.float_ops=HARD_SWISH", target="onnx")

    @pytest.mark.parametrize(
        ("profile", "precision"),
        [
            ("pi3b", "dynamic"),
            ("pi4", "dynamic"),
            ("pi_zero2w", "dynamic"),
            ("pi5", "fp16"),
            ("android_xnnpack", "fp16"),
        ],
    )
    def test_without_data_it_depends_on_fp16_arithmetic(
        self, model: ModelSpec, profile: str, precision: str
    ) -> None:
        plan = plan_for(model, DataFacts(), profile=profile)
        assert plan.scheme.precision == precision
        assert "not verified on real inputs" in plan.warnings[0]

    @pytest.mark.parametrize("precision", ["float32", "fp16", "dynamic"])
    def test_without_data_there_is_a_warning_for_a_chosen_precision_too(
        self, model: ModelSpec, precision: str
    ) -> None:
        plan = plan_for(model, DataFacts(), f"quantize.precision={precision}")
        assert plan.scheme.precision == precision
        assert "not verified on real inputs" in plan.warnings[0]
        assert (plan.step("quantize") is None) == (precision == "float32")

    def test_evaluation_data_alone_is_data(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["eval"])
        assert plan.scheme.precision == "dynamic"
        assert plan.warnings == ()
        assert "accuracy_drop" in gates(plan)

    def test_settings_reach_the_scheme(self, model: ModelSpec, situations: Situations) -> None:
        chosen = ("quantize.calibration=mse", "quantize.per_channel=no", "quantize.io=int8")
        plan = plan_for(model, situations["calib"], *chosen, keep_nchw=True)
        scheme = plan.scheme
        assert (scheme.calibration, scheme.per_channel, scheme.io) == ("mse", False, "int8")
        step = plan.step("convert")
        assert scheme.keep_nchw and step is not None and step.config["keep_nchw"] is True


class TestPruning:
    def test_training_data_gives_pruning_and_recovery(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib_eval_train"])
        assert [s.name for s in plan.steps][:3] == ["prune", "finetune", "convert"]
        step = plan.step("prune")
        assert step is not None
        assert step.config["ratio"] == 0.3
        assert step.config["round_to"] == load_profile("pi4").constraints.channel_multiple

    def test_settings_reach_the_steps(self, model: ModelSpec, situations: Situations) -> None:
        chosen = ("prune.ratio=0.5", "prune.ignore=stem, head.1", "finetune.epochs=3", "distill.alpha=0.25")
        plan = plan_for(model, situations["calib_eval_train"], *chosen)
        prune, tune = plan.step("prune"), plan.step("finetune")
        assert prune is not None and tune is not None
        assert prune.config["ratio"] == 0.5 and prune.config["ignore"] == ["stem", "head.1"]
        assert tune.config["epochs"] == 3 and tune.config["alpha"] == 0.25

    def test_the_steps_config_is_what_finetune_takes(self, model: ModelSpec, situations: Situations) -> None:
        from edgekit.compress.finetune import Settings

        step = plan_for(model, situations["calib_eval_train"]).step("finetune")
        assert step is not None
        Settings(seed=0, **step.config)

    def test_zero_switches_it_off(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib_eval_train"], "prune.ratio=0")
        assert plan.step("prune") is None and plan.step("finetune") is None
        assert "prune.ratio=0" in reason(plan, "structured pruning")

    def test_a_fixed_graph_is_not_pruned(self, model: ModelSpec, situations: Situations) -> None:
        fixed = replace(model, trainable=False)
        plan = plan_for(fixed, situations["calib_eval_train"])
        assert plan.step("prune") is None
        assert "cannot be changed" in reason(plan, "structured pruning")


class TestGates:
    def test_labels_gate_the_accuracy(self, model: ModelSpec, situations: Situations) -> None:
        assert gates(plan_for(model, situations["calib_eval"])) == {"accuracy_drop": 1.0, "int8_share": 90.0}
        assert gates(plan_for(model, situations["calib_eval"], max_drop=0.25))["accuracy_drop"] == 0.25

    def test_zero_is_a_limit(self, model: ModelSpec, situations: Situations) -> None:
        assert gates(plan_for(model, situations["calib_eval"], max_drop=0.0))["accuracy_drop"] == 0.0

    def test_without_labels_the_original_is_the_judge(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib"], "gate.min_agreement=98", "gate.min_sqnr=20")
        assert gates(plan) == {"agreement": 98.0, "output_sqnr": 20.0, "int8_share": 90.0}

    def test_other_tasks_have_no_top1(self, model: ModelSpec, situations: Situations) -> None:
        generic = replace(model, task="generic")
        assert set(gates(plan_for(generic, situations["calib_eval"]))) == {"output_sqnr", "int8_share"}

    def test_a_pruned_model_need_not_compute_the_same_values(self, model: ModelSpec) -> None:
        plan = plan_for(model, DataFacts(calib=64, train=500, train_labelled=True))
        assert set(gates(plan)) == {"agreement", "int8_share"}

    def test_a_size_limit_is_a_gate(self, model: ModelSpec) -> None:
        assert gates(plan_for(model, DataFacts(), max_size_bytes=1000)) == {"file_size": 1000}

    def test_what_was_not_measured_never_passes(self) -> None:
        gate = Gate(name="g", limit=1.0, comparison="<=", unit="")
        assert gate.passed is None
        assert [replace(gate, measured=m).passed for m in (0.5, 1.0, 1.5)] == [True, True, False]
        other = replace(gate, comparison=">=")
        assert [replace(other, measured=m).passed for m in (0.5, 1.0, 1.5)] == [False, True, True]
        assert replace(gate, measured=float("nan")).passed is False


class TestContradictions:
    @pytest.mark.parametrize(
        ("situation", "settings", "request_", "message", "hint"),
        [
            ("none", ["quantize.precision=int8"], {}, "int8 needs calibration data", "--calib"),
            ("calib", ["prune.ratio=0.3"], {}, "there is no training data", "--train"),
            ("none", ["prune.ratio=0.3"], {}, "there is no training data", "--train"),
            ("calib", [], {"max_drop": 0.5}, "--max-drop needs labelled evaluation data", "--eval"),
            ("none", [], {"max_drop": 0.5}, "--max-drop needs labelled evaluation data", "--eval"),
            ("none", ["quantize.form=equalized"], {}, "the file is dynamic, which gains nothing", "--calib"),
            (
                "calib_eval_train",
                ["quantize.form=equalized", "qat.epochs=1"],
                {},
                "quantize.form=equalized and qat.epochs exclude each other",
                "leave one",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused(
        self,
        model: ModelSpec,
        situations: Situations,
        situation: str,
        settings: list[str],
        request_: dict[str, Any],
        message: str,
        hint: str,
    ) -> None:
        with pytest.raises(UserError, match=message) as caught:
            plan_for(model, situations[situation], *settings, **request_)
        assert caught.value.exit_code == 2
        assert hint in (caught.value.hint or "")

    def test_pruning_a_fixed_graph(self, model: ModelSpec, situations: Situations) -> None:
        with pytest.raises(UserError, match="cannot be pruned: its source is fixed"):
            plan_for(replace(model, trainable=False), situations["calib_eval_train"], "prune.ratio=0.3")

    def test_max_drop_on_other_tasks(self, model: ModelSpec, situations: Situations) -> None:
        with pytest.raises(UserError, match="of a classifier"):
            plan_for(replace(model, task="generic"), situations["calib_eval"], max_drop=0.5)

    def test_max_drop_on_evaluation_data_without_labels(self, model: ModelSpec) -> None:
        with pytest.raises(UserError, match="labelled"):
            plan_for(model, DataFacts(calib=10, eval=10), max_drop=0.5)

    def test_int8_in_and_out_of_another_precision(self, model: ModelSpec) -> None:
        with pytest.raises(Unsupported, match="int8 inputs and outputs need int8 precision"):
            plan_for(model, DataFacts(), "quantize.io=int8")


class TestTargets:
    def test_a_runtime_without_backend_says_so(
        self, model: ModelSpec, situations: Situations, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgekit.plan.RUNTIMES", ("tflite",))
        with pytest.raises(Unsupported, match="jetson_nano") as caught:
            plan_for(model, situations["calib_eval"], profile="jetson_nano")
        assert caught.value.exit_code == 4
        assert "no onnx backend" in str(caught.value)

    def test_a_gpu_gets_fp16_and_says_why_not_int8(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib_eval"], profile="android_gpu")
        assert (plan.target, plan.scheme.precision) == ("tflite/gpu", "fp16")
        (why,) = [r.reason for r in plan.rejected if r.alternative == "static int8"]
        assert "computes in float" in why

    def test_nnapi_gets_int8_through_and_through(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib_eval"], profile="android_nnapi")
        assert (plan.scheme.precision, plan.scheme.io, plan.scheme.delegate) == ("int8", "int8", "nnapi")
        assert any("API 35" in w for w in plan.warnings)
        asked = plan_for(model, situations["calib_eval"], "quantize.io=float", profile="android_nnapi")
        assert asked.scheme.io == "float"

    def test_a_jetson_gets_both_precisions(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib_eval"], profile="jetson_orin_nano")
        assert plan.scheme.precision == "int8"
        assert [s.precision for s in plan.companions] == ["fp16"]
        assert plan.step("companion") is not None
        assert not any(r.alternative == "fp16" for r in plan.rejected)

    def test_several_targets_have_a_plan_each(self, model: ModelSpec, situations: Situations) -> None:
        for wanted in (AUTO, ALL):
            plans = make_plans(load_profile("pi4"), model, situations["calib"], Request(target=wanted))
            assert [p.target for p in plans] == [
                f"{t.runtime}/{t.delegate}" for t in load_profile("pi4").targets
            ]
            assert len({p.gates for p in plans}) == 1
            assert all(any("compared" in r.reason for r in p.rejected) for p in plans)

    def test_a_target_with_problems_gives_way(self, model: ModelSpec, situations: Situations) -> None:
        """What preflight found is the reason; the next target of the profile is taken."""
        odd = Problem(op="aten.fft_fft", where="net.odd", reason="has no kernel", hint="leave it out")
        problems = {"tflite/xnnpack": [odd] * 5}
        plan = make_plan(load_profile("pi4"), model, situations["calib"], Request(), problems)
        assert plan.target != "tflite/xnnpack"
        (why,) = [r.reason for r in plan.rejected if r.alternative == "target tflite/xnnpack"]
        assert "aten.fft_fft at net.odd: has no kernel" in why and "and 2 more" in why

    def test_a_model_that_no_target_takes_is_unsupported(
        self, model: ModelSpec, situations: Situations
    ) -> None:
        odd = (Problem(op="aten.fft_fft", where="net.odd", reason="has no kernel"),)
        problems = {f"{t.runtime}/{t.delegate}": odd for t in load_profile("pi4").targets}
        with pytest.raises(Unsupported, match=r"aten\.fft_fft at net\.odd") as caught:
            make_plan(load_profile("pi4"), model, situations["calib"], Request(), problems)
        assert "edgekit inspect" in (caught.value.hint or "")

    def test_every_target_is_chosen_or_rejected(self, model: ModelSpec, situations: Situations) -> None:
        plan = plan_for(model, situations["calib"])
        named = {plan.target} | {
            r.alternative.removeprefix("target ")
            for r in plan.rejected
            if r.alternative.startswith("target ")
        }
        assert named == {f"{t.runtime}/{t.delegate}" for t in load_profile("pi4").targets}

    @pytest.mark.parametrize("wanted", ["tflite", "tflite/xnnpack"])
    def test_a_target_by_name(self, model: ModelSpec, situations: Situations, wanted: str) -> None:
        assert plan_for(model, situations["calib"], target=wanted).target == "tflite/xnnpack"

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ("coreml", "no target 'coreml'"),
            ("tflite/gpu", "no target"),
        ],
    )
    def test_a_target_that_cannot_be_had(
        self, model: ModelSpec, situations: Situations, wanted: str, message: str
    ) -> None:
        with pytest.raises(Unsupported, match=message):
            plan_for(model, situations["calib"], target=wanted)

    def test_the_device_is_the_emulator_where_there_is_one(
        self, model: ModelSpec, situations: Situations
    ) -> None:
        step = plan_for(model, situations["calib"]).step("measure")
        assert step is not None and step.config == {"device": "emulator"}
        step = plan_for(model, situations["calib"], device="local").step("measure")
        assert step is not None and step.config == {"device": "local"}
        emulated = load_profile("android_xnnpack").emulator is not None
        step = plan_for(model, situations["calib"], profile="android_xnnpack").step("measure")
        assert (step is not None) == emulated


def test_equal_inputs_give_equal_plans(model: ModelSpec, situations: Situations) -> None:
    for data in situations.values():
        assert plan_for(model, data) == plan_for(model, data)


def test_the_explanation_names_everything(model: ModelSpec, situations: Situations) -> None:
    plan = plan_for(model, situations["calib_eval_train"])
    text = "\n".join(f"{heading}: {sentence}" for heading, sentence in explain(plan))
    for word in (plan.target, *(s.name for s in plan.steps), *(g.name for g in plan.gates)):
        assert word in text
    assert all(r.alternative in text and r.reason in text for r in plan.rejected)
    assert all(s.reason for s in plan.steps)


PLANNING = """
import json, sys
from edgekit.plan import DataFacts, Request, make_plan
from edgekit.profiles.loader import load_profile
from edgekit.types import ModelSpec, TensorSpec, to_json

data = json.loads(sys.argv[1])
for side in ("inputs", "outputs"):
    data[side] = tuple(TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in data[side])
del data["preprocessing"]
plan = make_plan(load_profile("pi4"), ModelSpec(**data), DataFacts(calib=64, train=100), Request())
heavy = set(sys.modules) & {"torch", "tensorflow", "onnx", "onnxruntime", "ai_edge_litert"}
print(json.dumps({"plan": to_json(plan), "heavy": sorted(heavy)}))
"""


def test_planning_is_pure_and_light(model: ModelSpec) -> None:
    """No framework is loaded, and neither the process nor the order of sets enters the plan."""
    made = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PLANNING, json.dumps(to_json(model))],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        made.append(json.loads(done.stdout))
    assert made[0]["heavy"] == []
    assert made[0] == made[1]
