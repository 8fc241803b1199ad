package dev.edgekit.core

import java.io.File

/** What one benchmark run was asked for. */
data class RunConfig(
    val runId: String,
    val bundle: File,
    val delegate: String,
    val threads: Int,
    val warmup: Int,
    val runs: Int
) {
    companion object {
        private val RUN_ID = Regex("[A-Za-z0-9_-]{1,64}")
        private val KEYS = setOf("run_id", "bundle", "delegate", "threads", "warmup", "runs")

        /** The run id of extras that may be wrong in every other way; null when it is unusable itself. */
        fun runIdOf(extras: Map<String, String?>): String? = extras["run_id"]?.takeIf(RUN_ID::matches)

        /**
         * From the extras of `am instrument -e KEY VALUE`. [delegates] are those of this app's runtime.
         *
         * Raises [BadConfiguration] naming the option, [DelegateRefused] for a delegate of another app.
         */
        fun fromExtras(extras: Map<String, String?>, delegates: List<String>): RunConfig {
            val unknown = extras.keys - KEYS
            if (unknown.isNotEmpty()) throw BadConfiguration("unknown options: ${unknown.sorted().joinToString()}")
            val runId = runIdOf(extras) ?: throw BadConfiguration("run_id is missing or not plain: ${extras["run_id"]}")
            val bundle = extras["bundle"]?.let(::File) ?: throw BadConfiguration("bundle is missing")
            if (!bundle.isAbsolute) throw BadConfiguration("bundle must be an absolute path, got $bundle")
            val delegate = extras["delegate"] ?: throw BadConfiguration("delegate is missing")
            if (delegate !in delegates) {
                throw DelegateRefused("this app has the delegates ${delegates.joinToString()}, not '$delegate'")
            }
            return RunConfig(
                runId = runId,
                bundle = bundle,
                delegate = delegate,
                threads = number(extras, "threads", 1..64),
                warmup = number(extras, "warmup", 0..100_000),
                runs = number(extras, "runs", 1..100_000)
            )
        }

        private fun number(extras: Map<String, String?>, key: String, range: IntRange): Int {
            val text = extras[key] ?: throw BadConfiguration("$key is missing")
            return text.toIntOrNull()?.takeIf { it in range }
                ?: throw BadConfiguration("$key must be a number from ${range.first} to ${range.last}, got '$text'")
        }
    }
}
