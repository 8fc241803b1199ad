package dev.edgekit.core

import org.json.JSONObject

/** Summary of run times in milliseconds; quantiles interpolate linearly between order statistics (type 7). */
class Statistics(samples: DoubleArray) {
    private val ordered = samples.sortedArray()

    init {
        require(samples.isNotEmpty() && samples.all { it.isFinite() }) { "no finite samples" }
    }

    fun quantile(q: Double): Double {
        val position = q * (ordered.size - 1)
        val below = position.toInt()
        val fraction = position - below
        if (fraction == 0.0) return ordered[below]
        return ordered[below] + fraction * (ordered[below + 1] - ordered[below])
    }

    val median: Double get() = quantile(0.5)
    val p90: Double get() = quantile(0.9)

    fun toJson(): JSONObject = JSONObject()
        .put("n", ordered.size)
        .put("min", ordered.first())
        .put("median", median)
        .put("p90", p90)
        .put("mean", ordered.average())
        .put("max", ordered.last())
}
