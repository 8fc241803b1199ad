// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
@file:Suppress("UNUSED_PARAMETER", "unused")

package com.google.ai.edge.litert

private fun stub(): Nothing = throw NotImplementedError("stub")

enum class Accelerator { NONE, CPU, GPU, NPU }

class LiteRtException(message: String) : RuntimeException(message)

class Environment private constructor() : AutoCloseable {
    enum class Option { CompilerPluginLibraryDir, DispatchLibraryDir }

    override fun close() = stub()

    companion object {
        @JvmStatic
        fun create(options: Map<Option, String> = mapOf()): Environment = stub()
    }
}

class TensorBuffer private constructor() : AutoCloseable {
    fun writeInt(data: IntArray): Unit = stub()

    fun writeFloat(data: FloatArray): Unit = stub()

    fun writeInt8(data: ByteArray): Unit = stub()

    fun readInt(): IntArray = stub()

    fun readFloat(): FloatArray = stub()

    fun readInt8(): ByteArray = stub()

    override fun close() = stub()
}

class CompiledModel private constructor() : AutoCloseable {
    data class CpuOptions(
        val numThreads: Int? = null,
        val xnnPackFlags: Int? = null,
        val xnnPackWeightCachePath: String? = null
    )

    class Options(vararg accelerators: Accelerator) {
        var cpuOptions: CpuOptions? = null
    }

    fun createInputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = stub()

    fun createOutputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = stub()

    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>, signatureIndex: Int = 0): Unit = stub()

    override fun close() = stub()

    companion object {
        @JvmStatic
        fun create(filePath: String, options: Options, optionalEnv: Environment? = null): CompiledModel = stub()
    }
}
