package dev.edgekit.core

/**
 * What TensorFlow Lite and LiteRT say in the log when they hand nodes to a delegate, and nowhere else:
 * "Replacing 30 out of 31 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 2 partitions".
 */
data class Delegation(val delegate: String, val taken: Int, val nodes: Int) {
    companion object {
        private val LINE = Regex("""Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\)""")

        /** Parts of the names that delegates have in the log: TfLiteGpuDelegateV2, LITERT_CL, DispatchDelegate. */
        private val NAMES = mapOf(
            "gpu" to listOf("gpu", "litert"),
            "npu" to listOf("dispatch"),
            "nnapi" to listOf("nnapi")
        )

        /** All lines of that kind, in order. */
        fun all(log: String): List<Delegation> = LINE.findAll(log)
            .map { Delegation(it.groupValues[3], it.groupValues[1].toInt(), it.groupValues[2].toInt()) }
            .toList()

        /**
         * The proof in [log], of one load of a model, that [delegate] took the whole graph; null when the log
         * does not tell. LiteRT may give a graph to the CPU without an error when an accelerator fails.
         *
         * Raises [DelegateRefused] when it took a part of the graph only, or another delegate took it.
         */
        fun confirm(log: String, delegate: String): Delegation? {
            val found = all(log)
            val names = NAMES.getValue(delegate)
            val own = found.filter { line -> names.any { line.delegate.contains(it, ignoreCase = true) } }
            own.firstOrNull { it.taken < it.nodes }?.let {
                throw DelegateRefused("$delegate takes ${it.taken} of ${it.nodes} nodes of this model")
            }
            if (own.isEmpty() && found.isNotEmpty()) {
                throw DelegateRefused("not $delegate but ${found.last().delegate} took the nodes of this model")
            }
            return own.lastOrNull()
        }
    }
}
