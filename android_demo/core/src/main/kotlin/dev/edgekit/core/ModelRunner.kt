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
