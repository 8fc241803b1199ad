package dev.edgekit.demo

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.Environment
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import dev.edgekit.core.DType
import dev.edgekit.core.DelegateRefused
import dev.edgekit.core.Delegation
import dev.edgekit.core.Manifest
import dev.edgekit.core.ModelRunner
import dev.edgekit.core.RunnerFactory
import dev.edgekit.core.RuntimeFacts
import dev.edgekit.core.RuntimeFailed
import dev.edgekit.core.Tensor
import dev.edgekit.core.TensorSpec

/** The runtime of this flavour: LiteRT 2, CompiledModel. */
fun runnerFactory(context: Context): RunnerFactory = LiteRtFactory(context)

private class LiteRtFactory(private val context: Context) : RunnerFactory {
    override val runtime = "tflite"
    override val version = BuildConfig.RUNTIME_VERSION
    override val delegates = listOf("cpu", "gpu", "npu")

    override fun open(manifest: Manifest, delegate: String, threads: Int): ModelRunner {
        // One accelerator alone: with (GPU, CPU) what the GPU does not take would run on the CPU unnoticed.
        val accelerator =
            when (delegate) {
                "gpu" -> Accelerator.GPU
                "npu" -> Accelerator.NPU
                else -> Accelerator.CPU
            }
        val options = CompiledModel.Options(accelerator)
        if (accelerator == Accelerator.CPU) options.cpuOptions = CompiledModel.CpuOptions(threads, null, null)
        val log = OwnLog()
        val libraries = context.applicationInfo.nativeLibraryDir
        val environment =
            Environment.create(
                if (accelerator != Accelerator.NPU) {
                    emptyMap()
                } else {
                    mapOf(
                        Environment.Option.DispatchLibraryDir to libraries,
                        Environment.Option.CompilerPluginLibraryDir to libraries
                    )
                }
            )
        val model =
            try {
                CompiledModel.create(manifest.modelFile().path, options, environment)
            } catch (refusal: LiteRtException) {
                environment.close()
                val why = refusal.message ?: "no reason was given"
                if (accelerator == Accelerator.CPU) throw RuntimeFailed("LiteRT does not load the model: $why", refusal)
                throw DelegateRefused("LiteRT does not run this model on the $delegate alone: $why", refusal)
            }
        // What falls back to the CPU all the same is told in the log only.
        val taken =
            try {
                if (accelerator == Accelerator.CPU) null else Delegation.confirm(log.text(), delegate)
            } catch (refusal: DelegateRefused) {
                model.close()
                environment.close()
                throw refusal
            }
        val warnings =
            listOfNotNull(
                "the runtime did not say how many nodes the $delegate took".takeIf {
                    accelerator != Accelerator.CPU && taken == null
                }
            )
        val facts = RuntimeFacts("litert", version, delegate, threads, taken?.taken, taken?.nodes, warnings)
        return LiteRtRunner(manifest, environment, model, facts)
    }
}

private class LiteRtRunner(
    private val manifest: Manifest,
    private val environment: Environment,
    private val model: CompiledModel,
    override val facts: RuntimeFacts
) : ModelRunner {
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()
    private var latest: List<Tensor> = emptyList()

    override fun write(inputs: List<Tensor>) {
        for ((buffer, tensor) in this.inputs.zip(inputs)) buffer.write(tensor)
    }

    /** Reading the outputs is part of it: the work of an accelerator is finished only then. */
    override fun invoke() {
        model.run(inputs, outputs)
        latest = outputs.zip(manifest.outputs) { buffer, spec -> buffer.read(spec) }
    }

    override fun read(): List<Tensor> = latest

    override fun close() {
        (inputs + outputs).forEach(TensorBuffer::close)
        model.close()
        environment.close()
    }

    private fun TensorBuffer.write(tensor: Tensor) = when (tensor.dtype) {
        DType.FLOAT32 -> writeFloat(tensor.toFloats())
        DType.INT32 -> writeInt(tensor.toInts())
        DType.INT8 -> writeInt8(tensor.data)
        else -> throw RuntimeFailed("LiteRT's Kotlin API has no ${tensor.dtype.label} inputs")
    }

    private fun TensorBuffer.read(spec: TensorSpec): Tensor = when (spec.dtype) {
        DType.FLOAT32 -> Tensor.of(readFloat(), spec.shape)
        DType.INT32 -> Tensor.of(readInt(), spec.shape)
        DType.INT8 -> Tensor(DType.INT8, spec.shape, readInt8())
        else -> throw RuntimeFailed("LiteRT's Kotlin API has no ${spec.dtype.label} outputs")
    }
}
