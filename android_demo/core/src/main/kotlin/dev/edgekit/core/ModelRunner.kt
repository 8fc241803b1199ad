package dev.edgekit.core

/**
 * What runs the model. [delegatedNodes] of [nodes] are on the delegate that was asked for, null where the
 * runtime does not tell.
 */
data class RuntimeFacts(
    val name: String,
    val version: String,
    val delegate: String,
    val threads: Int,
    val delegatedNodes: Int? = null,
    val nodes: Int? = null,
    val warnings: List<String> = emptyList()
)

/** A model loaded in a runtime, on one delegate and no other. */
interface ModelRunner : AutoCloseable {
    val facts: RuntimeFacts

    /** Copies the inputs, as the file stores them and in the manifest's order, to where the model reads them. */
    fun write(inputs: List<Tensor>)

    /** One inference; returns when its outputs are computed. */
    fun invoke()

    /** The outputs of the last inference, in the manifest's order. */
    fun read(): List<Tensor>
}

/** Opens models. Raises [DelegateRefused] rather than run on another delegate than asked for. */
interface RunnerFactory {
    /** Name of the runtime in manifests: "tflite" or "executorch". */
    val runtime: String

    /** Version of the runtime that this app was built with. */
    val version: String

    /** Delegates that can be asked for, the default first. */
    val delegates: List<String>

    fun open(manifest: Manifest, delegate: String, threads: Int): ModelRunner
}

/**
 * What TensorFlow Lite says in the log when it hands nodes to a delegate:
 * "Replacing 30 out of 31 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 2 partitions".
 */
data class Delegation(val delegate: String, val taken: Int, val nodes: Int) {
    companion object {
        private val LINE = Regex("""Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\)""")

        /** The last line about a delegate whose name contains [name], ignoring case; null when there is none. */
        fun find(log: String, name: String): Delegation? = LINE.findAll(log)
            .map { Delegation(it.groupValues[3], it.groupValues[1].toInt(), it.groupValues[2].toInt()) }
            .lastOrNull { it.delegate.contains(name, ignoreCase = true) }
    }
}
