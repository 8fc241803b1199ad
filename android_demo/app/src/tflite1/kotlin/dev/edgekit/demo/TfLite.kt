package dev.edgekit.demo

import android.content.Context
import android.os.Build
import dev.edgekit.core.DelegateRefused
import dev.edgekit.core.Delegation
import dev.edgekit.core.Manifest
import dev.edgekit.core.ModelRunner
import dev.edgekit.core.RunnerFactory
import dev.edgekit.core.RuntimeFacts
import dev.edgekit.core.RuntimeFailed
import dev.edgekit.core.Tensor
import dev.edgekit.core.elements
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Delegate
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.TensorFlowLite
import org.tensorflow.lite.gpu.GpuDelegate
import org.tensorflow.lite.nnapi.NnApiDelegate

/** The runtime of this flavour: the 1.4 line of LiteRT, which has NNAPI and the older GPU delegate. */
fun runnerFactory(@Suppress("UNUSED_PARAMETER") context: Context): RunnerFactory = TfLiteFactory

private object TfLiteFactory : RunnerFactory {
    override val runtime = "tflite"
    override val version = BuildConfig.RUNTIME_VERSION
    override val delegates = listOf("cpu", "gpu", "nnapi")

    override fun open(manifest: Manifest, delegate: String, threads: Int): ModelRunner {
        val accelerator = accelerator(delegate)
        val log = OwnLog()
        val options = Interpreter.Options().setNumThreads(threads).setUseXNNPACK(accelerator == null)
        accelerator?.let(options::addDelegate)
        val interpreter =
            try {
                Interpreter(manifest.modelFile(), options)
            } catch (refusal: RuntimeException) {
                accelerator?.close()
                val why = refusal.message ?: "no reason was given"
                if (accelerator == null) throw RuntimeFailed("TFLite does not load the model: $why", refusal)
                throw DelegateRefused("TFLite does not run this model on $delegate: $why", refusal)
            }
        // A delegate that takes only a part leaves the rest to the CPU, and says so in the log only.
        val taken =
            try {
                if (accelerator == null) null else Delegation.confirm(log.text(), delegate)
            } catch (refusal: DelegateRefused) {
                interpreter.close()
                accelerator?.close()
                throw refusal
            }
        val warnings =
            listOfNotNull(
                "NNAPI is deprecated from Android 15 (API 35) on".takeIf {
                    delegate == "nnapi" && Build.VERSION.SDK_INT >= Build.VERSION_CODES.VANILLA_ICE_CREAM
                },
                "the runtime did not say how many nodes $delegate took".takeIf { accelerator != null && taken == null }
            )
        val facts =
            RuntimeFacts(
                "tflite",
                TensorFlowLite.runtimeVersion(),
                delegate,
                threads,
                taken?.taken,
                taken?.nodes,
                warnings
            )
        return TfLiteRunner(manifest, interpreter, accelerator, facts)
    }

    private fun accelerator(delegate: String): Delegate? = when (delegate) {
        "gpu" -> GpuDelegate()

        "nnapi" -> {
            if (Build.VERSION.SDK_INT < Build.VERSION_CODES.O_MR1) throw DelegateRefused("NNAPI needs API 27")
            // Without NNAPI's own reference implementation, which is a CPU.
            NnApiDelegate(NnApiDelegate.Options().setUseNnapiCpu(false))
        }

        else -> null
    }
}

private class TfLiteRunner(
    private val manifest: Manifest,
    private val interpreter: Interpreter,
    private val accelerator: Delegate?,
    override val facts: RuntimeFacts
) : ModelRunner {
    private val inputs = manifest.inputs.map { direct(elements(it.shape) * it.dtype.size) }
    private val outputs = manifest.outputs.map { direct(elements(it.shape) * it.dtype.size) }

    override fun write(inputs: List<Tensor>) {
        for ((buffer, tensor) in this.inputs.zip(inputs)) {
            buffer.clear()
            buffer.put(tensor.data)
        }
    }

    /** The Java API copies inputs and outputs on each run; the time of that is included. */
    override fun invoke() {
        (inputs + outputs).forEach(ByteBuffer::rewind)
        interpreter.runForMultipleInputsOutputs(inputs.toTypedArray(), outputs.withIndex().associate { it.toPair() })
    }

    override fun read(): List<Tensor> = outputs.zip(manifest.outputs) { buffer, spec ->
        val bytes = ByteArray(buffer.capacity())
        buffer.rewind()
        buffer.get(bytes)
        Tensor(spec.dtype, spec.shape, bytes)
    }

    override fun close() {
        interpreter.close()
        accelerator?.close()
    }

    private fun direct(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    private fun IndexedValue<ByteBuffer>.toPair(): Pair<Int, Any> = index to value
}
