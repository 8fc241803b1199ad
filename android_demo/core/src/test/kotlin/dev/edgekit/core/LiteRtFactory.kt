package dev.edgekit.core

import com.sun.jna.Memory
import com.sun.jna.NativeLibrary
import com.sun.jna.NativeLong
import com.sun.jna.Pointer
import com.sun.jna.ptr.PointerByReference
import java.io.File

/**
 * LiteRT's C API (2.3) on the JVM, on the CPU, through JNA: real inference where no Android is. The calls and
 * struct sizes are those of edgekit/native/litert_api.h and hold for the release that pyproject.toml pins.
 */
class LiteRtFactory(private val library: File, override val version: String) : RunnerFactory {
    override val runtime = "tflite"
    override val delegates = listOf("cpu")

    override fun open(manifest: Manifest, delegate: String, threads: Int): ModelRunner =
        LiteRtRunner(library, manifest, RuntimeFacts("litert-c", version, delegate, threads))
}

private class LiteRtRunner(library: File, private val manifest: Manifest, override val facts: RuntimeFacts) :
    ModelRunner {
    private val lib = NativeLibrary.getInstance(library.path)
    private val environment = made("LiteRtCreateEnvironment", 0, Pointer.NULL)
    private val model = made("LiteRtCreateModelFromFile", environment, manifest.modelFile().path)
    private val options = made("LiteRtCreateOptions").also { call("LiteRtSetOptionsHardwareAccelerators", it, CPU) }
    private val compiled = made("LiteRtCreateCompiledModel", environment, model, options)
    private val signature = made("LiteRtGetModelSignature", model, NativeLong(0))
    private val inputs = buffers("Input", manifest.inputs.size)
    private val outputs = buffers("Output", manifest.outputs.size)

    override fun write(inputs: List<Tensor>) {
        for ((buffer, tensor) in this.inputs.zip(inputs)) {
            locked(buffer, WRITE) { it.write(0, tensor.data, 0, tensor.data.size) }
        }
    }

    override fun invoke() {
        val n = NativeLong(inputs.size.toLong())
        val m = NativeLong(outputs.size.toLong())
        call("LiteRtRunCompiledModel", compiled, NativeLong(0), n, inputs, m, outputs)
    }

    override fun read(): List<Tensor> = outputs.zip(manifest.outputs) { buffer, spec ->
        val bytes = ByteArray(elements(spec.shape) * spec.dtype.size)
        locked(buffer, READ) { it.read(0, bytes, 0, bytes.size) }
        Tensor(spec.dtype, spec.shape, bytes)
    }

    override fun close() {
        (inputs + outputs).forEach { destroy("TensorBuffer", it) }
        destroy("CompiledModel", compiled)
        destroy("Options", options)
        destroy("Model", model)
        destroy("Environment", environment)
    }

    private fun buffers(side: String, expected: Int): Array<Pointer> {
        val count = Memory(8)
        call("LiteRtGetNumSignature${side}s", signature, count)
        if (count.getLong(0) != expected.toLong()) throw RuntimeFailed("the file has ${count.getLong(0)} ${side}s")
        return Array(expected) { i ->
            val tensor = made("LiteRtGetSignature${side}TensorByIndex", signature, NativeLong(i.toLong()))
            val type = Memory(RANKED_TENSOR_TYPE_BYTES)
            call("LiteRtGetRankedTensorType", tensor, type)
            val needs =
                made("LiteRtGetCompiledModel${side}BufferRequirements", compiled, NativeLong(0), NativeLong(i.toLong()))
            made("LiteRtCreateManagedTensorBufferFromRequirements", environment, type, needs)
        }
    }

    private fun locked(buffer: Pointer, mode: Int, use: (Pointer) -> Unit) {
        val address = PointerByReference()
        call("LiteRtLockTensorBuffer", buffer, address, mode)
        use(address.value)
        call("LiteRtUnlockTensorBuffer", buffer)
    }

    private fun made(function: String, vararg arguments: Any?): Pointer {
        val result = PointerByReference()
        call(function, *arguments, result)
        return result.value
    }

    private fun call(function: String, vararg arguments: Any?) {
        val status = lib.getFunction(function).invokeInt(arguments)
        if (status != 0) throw RuntimeFailed("$function gave status $status")
    }

    private fun destroy(what: String, handle: Pointer) = lib.getFunction("LiteRtDestroy$what").invoke(arrayOf(handle))

    private companion object {
        const val CPU = 1
        const val READ = 0
        const val WRITE = 1
        const val RANKED_TENSOR_TYPE_BYTES = 72L
    }
}
