package dev.edgekit.core

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import kotlin.io.encoding.Base64
import org.json.JSONObject
import org.junit.Assume

/**
 * The file or folder that a system property names; scripts/check_android sets them. Without it a test is
 * skipped, except where "edgekit.required" says that it must be there.
 */
fun given(property: String): File {
    val path = System.getProperty(property).orEmpty()
    if (path.isEmpty() && System.getProperty("edgekit.required").orEmpty().isNotEmpty()) {
        throw AssertionError("-D$property is not set")
    }
    Assume.assumeTrue("-D$property names no file: see scripts/check_android", path.isNotEmpty())
    return File(path)
}

fun decoded(data: JSONObject, key: String): ByteArray = Base64.decode(data.getString(key))

fun floats(bytes: ByteArray): FloatArray {
    val values = FloatArray(bytes.size / 4)
    ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values)
    return values
}

/** A .npy file of version 1. */
fun npy(tensor: Tensor): ByteArray {
    val sides = tensor.shape.joinToString("") { "$it, " }
    val header = "{'descr': '${tensor.dtype.numpy}', 'fortran_order': False, 'shape': ($sides), }"
    val padded = header.padEnd((10 + header.length + 64) / 64 * 64 - 10 - 1) + "\n"
    val magic = byteArrayOf(0x93.toByte()) + "NUMPY".toByteArray() + byteArrayOf(1, 0)
    val length = byteArrayOf(padded.length.toByte(), (padded.length shr 8).toByte())
    return magic + length + padded.toByteArray() + tensor.data
}

fun digest(bytes: ByteArray): String =
    MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }

/** A bundle of a model with one int8 input and one int8 output of two classes; [change] edits its manifest. */
fun smallBundle(root: File, change: (JSONObject) -> Unit = {}): File {
    File(root, "golden").mkdirs()
    fun write(name: String, bytes: ByteArray): String {
        File(root, name).writeBytes(bytes)
        return """{"path": "$name", "sha256": "${digest(bytes)}"}"""
    }
    val model = write("model.tflite", "model".toByteArray())
    val input = write("golden/0_input_0.npy", npy(Tensor(DType.INT8, listOf(1, 2), byteArrayOf(1, 2))))
    val output = write("golden/0_output_0.npy", npy(Tensor(DType.INT8, listOf(1, 2), byteArrayOf(3, 9))))
    val tensor = """"shape": [1, 2], "dtype": "int8", "layout": null, "scale": 0.5, "zero_point": 1, "range": null,
        "source": {"name": "x", "shape": [1, 2], "dtype": "float32", "layout": null}"""
    val manifest =
        JSONObject(
            """{"schema_version": 1, "name": "small", "profile": "android_xnnpack", "task": "classification",
            "models": [${model.dropLast(1)}, "bytes": 5, "format": "tflite", "precision": "int8"}], "files": [],
            "runtime": {"name": "tflite", "min_version": "2.14.0", "delegates": ["xnnpack"], "threads": 4},
            "inputs": [{"name": "in", $tensor}], "outputs": [{"name": "out", $tensor}],
            "preprocessing": {"resize": null, "scale": null, "mean": null, "std": null, "channel_order": null},
            "labels": ["left", "right"],
            "golden": {"tolerance": {"atol": 0.0, "rtol": 0.0},
                       "samples": [{"inputs": [$input], "outputs": [$output]}]},
            "provenance": {"edgekit_version": "0", "source_sha256": "", "plan_digest": ""}, "licences": {}}"""
        )
    change(manifest)
    File(root, "manifest.json").writeText(manifest.toString())
    return root
}

/** Answers every inference with [answer]; counts what it is asked. */
class FakeRunner(private val answer: ByteArray, override val facts: RuntimeFacts) : ModelRunner {
    var invocations = 0
    var closed = false
    var written: List<Tensor> = emptyList()

    override fun write(inputs: List<Tensor>) {
        written = inputs
    }

    override fun invoke() {
        invocations++
    }

    override fun read(): List<Tensor> = listOf(Tensor(DType.INT8, listOf(1, answer.size), answer))

    override fun close() {
        closed = true
    }
}

class FakeFactory(private val answer: ByteArray = byteArrayOf(3, 9)) : RunnerFactory {
    override val runtime = "tflite"
    override val version = "1"
    override val delegates = listOf("cpu", "gpu")
    val opened = mutableListOf<FakeRunner>()

    override fun open(manifest: Manifest, delegate: String, threads: Int): ModelRunner {
        if (delegate == "gpu") throw DelegateRefused("no GPU here")
        return FakeRunner(answer, RuntimeFacts("fake", "1", delegate, threads)).also(opened::add)
    }
}

object FakeDevice : Device {
    override fun facts(): JSONObject = JSONObject()
        .put("manufacturer", "none")
        .put("model", "jvm")
        .put("soc", JSONObject.NULL)
        .put("api_level", JSONObject.NULL)

    override fun thermal(): JSONObject = JSONObject().put("status", 0)

    override fun peakRssKb(): Long = 1234
}
