package dev.edgekit.demo

import android.content.Context
import dev.edgekit.core.DType
import dev.edgekit.core.Manifest
import dev.edgekit.core.ModelRunner
import dev.edgekit.core.RunnerFactory
import dev.edgekit.core.RuntimeFacts
import dev.edgekit.core.RuntimeFailed
import dev.edgekit.core.Tensor
import dev.edgekit.core.TensorSpec
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor as TorchTensor

/** The runtime of this flavour: ExecuTorch, whose version must be that of the exporter. */
fun runnerFactory(@Suppress("UNUSED_PARAMETER") context: Context): RunnerFactory = ExecuTorchFactory

private object ExecuTorchFactory : RunnerFactory {
    override val runtime = "executorch"
    override val version = BuildConfig.RUNTIME_VERSION

    /** What the file was lowered for, XNNPACK, is fixed when it is exported. */
    override val delegates = listOf("cpu")

    override fun open(manifest: Manifest, delegate: String, threads: Int): ModelRunner {
        if (manifest.minVersion.isNotEmpty() && manifest.minVersion != version) {
            throw RuntimeFailed("the file was written by ExecuTorch ${manifest.minVersion}, this app has $version")
        }
        val module = Module.load(manifest.modelFile().path, Module.LOAD_MODE_MMAP, threads)
        return ExecuTorchRunner(manifest, module, RuntimeFacts("executorch", version, delegate, threads))
    }
}

private class ExecuTorchRunner(
    private val manifest: Manifest,
    private val module: Module,
    override val facts: RuntimeFacts
) : ModelRunner {
    private var inputs: Array<EValue> = emptyArray()
    private var outputs: Array<EValue> = emptyArray()

    override fun write(inputs: List<Tensor>) {
        this.inputs = inputs.map { EValue.from(torch(it)) }.toTypedArray()
    }

    override fun invoke() {
        outputs = module.forward(*inputs)
    }

    override fun read(): List<Tensor> {
        if (outputs.size != manifest.outputs.size) throw RuntimeFailed("the model gave ${outputs.size} outputs")
        return outputs.zip(manifest.outputs) { value, spec -> plain(value.toTensor(), spec) }
    }

    override fun close() = module.destroy()

    private fun torch(tensor: Tensor): TorchTensor {
        val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        return when (tensor.dtype) {
            DType.FLOAT32 -> TorchTensor.fromBlob(tensor.toFloats(), shape)
            DType.INT32 -> TorchTensor.fromBlob(tensor.toInts(), shape)
            DType.INT8 -> TorchTensor.fromBlob(tensor.data, shape)
            else -> throw RuntimeFailed("this app has no ${tensor.dtype.label} inputs for ExecuTorch")
        }
    }

    private fun plain(tensor: TorchTensor, spec: TensorSpec): Tensor = when (spec.dtype) {
        DType.FLOAT32 -> Tensor.of(tensor.dataAsFloatArray, spec.shape)
        DType.INT32 -> Tensor.of(tensor.dataAsIntArray, spec.shape)
        DType.INT8 -> Tensor(DType.INT8, spec.shape, tensor.dataAsByteArray)
        else -> throw RuntimeFailed("this app has no ${spec.dtype.label} outputs for ExecuTorch")
    }
}
