package dev.edgekit.core

import kotlin.math.abs

/** One golden sample run here: [maxAbs] is infinite when one value is NaN and the other is not. */
data class GoldenResult(val outputs: List<Tensor>, val maxAbs: Double, val mismatched: Int, val top1: Int?) {
    val passed: Boolean get() = mismatched == 0
}

/** (largest difference, elements out of tolerance); NaN agrees with NaN, an infinity with the same infinity. */
fun difference(expected: Tensor, got: Tensor, tolerance: Tolerance): Pair<Double, Int> {
    if (expected.dtype != got.dtype || expected.shape != got.shape) {
        throw RuntimeFailed(
            "an output is ${got.dtype.label} ${got.shape}, the golden one ${expected.dtype.label} ${expected.shape}"
        )
    }
    val a = expected.toDoubles()
    val b = got.toDoubles()
    var worst = 0.0
    var bad = 0
    for (i in a.indices) {
        if (a[i] == b[i] || (a[i].isNaN() && b[i].isNaN())) continue
        val distance = abs(a[i] - b[i]).let { if (it.isNaN()) Double.POSITIVE_INFINITY else it }
        worst = maxOf(worst, distance)
        val within = distance <= tolerance.atol + tolerance.rtol * abs(a[i])
        if (!within || a[i].isInfinite()) bad++
    }
    return worst to bad
}

/** Runs every golden sample of the bundle. */
fun runGolden(manifest: Manifest, runner: ModelRunner): List<GoldenResult> = manifest.golden.map { sample ->
    val expected = manifest.arrays(sample.outputs)
    runner.write(manifest.arrays(sample.inputs))
    runner.invoke()
    val got = runner.read()
    if (got.size != expected.size) {
        throw RuntimeFailed("the model has ${got.size} outputs, the manifest ${expected.size}")
    }
    val found = expected.zip(got).map { (e, g) -> difference(e, g, manifest.tolerance) }
    val scores = manifest.outputs.first().toReal(got.first())
    val classes = manifest.task == "classification" && manifest.outputs.first().shape.size == 2
    GoldenResult(
        outputs = got,
        maxAbs = found.maxOf { it.first },
        mismatched = found.sumOf { it.second },
        top1 = if (classes) topK(scores, 1).firstOrNull() else null
    )
}
