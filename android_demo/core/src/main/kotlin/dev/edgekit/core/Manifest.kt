package dev.edgekit.core

import java.io.File
import java.security.MessageDigest
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** A file of the bundle with the digest that its bytes must have. */
data class BundleFile(val path: String, val sha256: String)

/** One golden sample: inputs as the file stores them, and the outputs that it gave where it was built. */
data class GoldenSample(val inputs: List<BundleFile>, val outputs: List<BundleFile>)

/**
 * How a picture becomes the model's input: scaled to just cover [resize] (height, width) keeping its
 * proportions, cropped about the centre, then (pixel / scale - mean) / std per channel.
 */
data class Preprocessing(
    val resize: Pair<Int, Int>?,
    val scale: Double?,
    val mean: List<Double>?,
    val std: List<Double>?,
    val channelOrder: String?
)

/** |got - expected| <= atol + rtol * |expected|, in quantisation steps for integer outputs. */
data class Tolerance(val atol: Double, val rtol: Double)

/** manifest.json of a bundle, schema version 1: all that this app knows of edgekit. */
data class Manifest(
    val root: File,
    val name: String,
    val profile: String,
    val task: String,
    val model: BundleFile,
    val format: String,
    val precision: String,
    val runtime: String,
    val minVersion: String,
    val delegates: List<String>,
    val threads: Int,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
    val preprocessing: Preprocessing,
    val labels: List<String>,
    val tolerance: Tolerance,
    val golden: List<GoldenSample>
) {
    /** The model file, its digest checked. */
    fun modelFile(): File = checked(model)

    /** The arrays of the files, their digests checked. */
    fun arrays(files: List<BundleFile>): List<Tensor> = files.map { Npy.read(checked(it)) }

    fun label(index: Int): String = labels.getOrElse(index) { "class $index" }

    /** The file of an entry. Raises [BadBundle] when it lies elsewhere, is missing or was changed. */
    fun checked(entry: BundleFile): File {
        val file = inside(root, entry.path)
        val digest = sha256(file)
        if (digest != entry.sha256) {
            val expected = entry.sha256.take(12)
            throw BadBundle("${entry.path} is damaged: its sha256 is ${digest.take(12)}..., not $expected...")
        }
        return file
    }

    companion object {
        const val SCHEMA_VERSION = 1

        /** Reads the bundle in the folder [root]. Raises [BadBundle] with what is wrong and where. */
        fun read(root: File): Manifest {
            val file = File(root, "manifest.json")
            if (!file.isFile) throw BadBundle("$root has no manifest.json")
            try {
                return parse(root, JSONObject(file.readText()))
            } catch (error: JSONException) {
                throw BadBundle("$file is not a valid manifest: ${error.message}", error)
            }
        }

        private fun parse(root: File, data: JSONObject): Manifest {
            val version = data.getInt("schema_version")
            if (version != SCHEMA_VERSION) {
                throw BadBundle("manifest.json has schema_version $version; this app reads $SCHEMA_VERSION")
            }
            val model = data.getJSONArray("models").getJSONObject(0)
            val runtime = data.getJSONObject("runtime")
            val golden = data.getJSONObject("golden")
            val tolerance = golden.getJSONObject("tolerance")
            return Manifest(
                root = root,
                name = data.getString("name"),
                profile = data.getString("profile"),
                task = data.getString("task"),
                model = file(model),
                format = model.getString("format"),
                precision = model.getString("precision"),
                runtime = runtime.getString("name"),
                minVersion = runtime.getString("min_version"),
                delegates = runtime.getJSONArray("delegates").strings(),
                threads = runtime.getInt("threads"),
                inputs = data.getJSONArray("inputs").objects().map(::tensor),
                outputs = data.getJSONArray("outputs").objects().map(::tensor),
                preprocessing = preprocessing(data.getJSONObject("preprocessing")),
                labels = data.getJSONArray("labels").strings(),
                tolerance = Tolerance(tolerance.getDouble("atol"), tolerance.getDouble("rtol")),
                golden =
                    golden.getJSONArray("samples").objects().map {
                        GoldenSample(
                            it.getJSONArray("inputs").objects().map(::file),
                            it.getJSONArray("outputs").objects().map(::file)
                        )
                    }
            )
        }

        private fun file(data: JSONObject) = BundleFile(data.getString("path"), data.getString("sha256"))

        private fun tensor(data: JSONObject) = TensorSpec(
            name = data.getString("name"),
            shape = data.getJSONArray("shape").let { shape -> List(shape.length(), shape::getInt) },
            dtype = DType.of(data.getString("dtype")),
            layout = data.orNull("layout")?.toString(),
            scale = data.orNull("scale")?.let { data.getDouble("scale") },
            zeroPoint = data.orNull("zero_point")?.let { data.getInt("zero_point") }
        )

        private fun preprocessing(data: JSONObject): Preprocessing = Preprocessing(
            resize =
                data.orNull("resize")?.let {
                    val size = data.getJSONArray("resize")
                    size.getInt(0) to size.getInt(1)
                },
            scale = data.orNull("scale")?.let { data.getDouble("scale") },
            mean = data.orNull("mean")?.let { data.getJSONArray("mean").doubles() },
            std = data.orNull("std")?.let { data.getJSONArray("std").doubles() },
            channelOrder = data.orNull("channel_order")?.toString()
        )

        /** The path under [root]. Raises [BadBundle] for one that leads out of it or to no file. */
        private fun inside(root: File, name: String): File {
            val plain = name.isNotEmpty() && name.none { it in "\\:\u0000" } && !name.startsWith("/")
            if (!plain || ".." in name.split('/')) throw BadBundle("'$name' is not a plain relative path")
            val file = File(root, name)
            if (!file.canonicalPath.startsWith(root.canonicalPath + File.separator)) {
                throw BadBundle("'$name' is a link that leads out of the bundle")
            }
            if (!file.isFile) throw BadBundle("the bundle lacks the file '$name'")
            return file
        }

        private fun sha256(file: File): String {
            val digest = MessageDigest.getInstance("SHA-256")
            file.inputStream().use { stream ->
                val chunk = ByteArray(1 shl 16)
                while (true) {
                    val n = stream.read(chunk)
                    if (n < 0) break
                    digest.update(chunk, 0, n)
                }
            }
            return digest.digest().joinToString("") { "%02x".format(it) }
        }
    }
}

private fun JSONObject.orNull(key: String): Any? {
    if (!has(key)) throw JSONException("No value for $key")
    return get(key).takeIf { it != JSONObject.NULL }
}

private fun JSONArray.objects(): List<JSONObject> = List(length(), ::getJSONObject)

private fun JSONArray.strings(): List<String> = List(length(), ::getString)

private fun JSONArray.doubles(): List<Double> = List(length(), ::getDouble)
