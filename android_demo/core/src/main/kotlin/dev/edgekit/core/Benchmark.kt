package dev.edgekit.core

import kotlin.io.encoding.Base64
import org.json.JSONArray
import org.json.JSONObject

/** Time that only goes forward, in nanoseconds. */
fun interface Clock {
    fun nanos(): Long
}

/** What the device tells of itself; Android answers in the app, and tests with what they like. */
interface Device {
    /** Constant facts: manufacturer, model, soc, api_level, abi and the like. */
    fun facts(): JSONObject

    /** Thermal status and battery now. */
    fun thermal(): JSONObject

    /** High-water mark of this process's resident memory in kB, null where it cannot be told. */
    fun peakRssKb(): Long?
}

/** Warm-up, timed runs and golden samples of one bundle; the outcome is JSON in any case. */
class Benchmark(private val factory: RunnerFactory, private val device: Device, private val clock: Clock) {
    /**
     * Runs what the extras of `am instrument` ask for and returns the result, schema version 1.
     *
     * It never throws: what went wrong is "error" in the result, and "status" is "failed".
     */
    fun run(extras: Map<String, String?>): JSONObject {
        val result =
            JSONObject()
                .put("schema_version", SCHEMA_VERSION)
                .put("run_id", RunConfig.runIdOf(extras) ?: JSONObject.NULL)
                .put("status", "failed")
                .put("error", JSONObject.NULL)
                .put("runtime_version", "${factory.runtime} ${factory.version}")
                .put("device", device.facts())
                .put("thermal", JSONObject().put("before", device.thermal()))
        try {
            measure(RunConfig.fromExtras(extras, factory.delegates), result)
            result.put("status", "ok")
        } catch (problem: Problem) {
            result.put("error", error(problem.kind, problem))
        } catch (other: Throwable) { // an UnsatisfiedLinkError of a runtime's library for one
            result.put("error", error("runtime", other))
        }
        result.getJSONObject("thermal").put("after", device.thermal())
        return result.put("peak_rss_kb", device.peakRssKb() ?: JSONObject.NULL)
    }

    private fun measure(config: RunConfig, result: JSONObject) {
        val manifest = Manifest.read(config.bundle)
        result.put(
            "bundle",
            JSONObject()
                .put("name", manifest.name)
                .put("profile", manifest.profile)
                .put("precision", manifest.precision)
                .put("model_sha256", manifest.model.sha256)
        )
        if (manifest.runtime != factory.runtime) {
            throw BadBundle("the bundle is for ${manifest.runtime}, this app runs ${factory.runtime}")
        }
        if (manifest.golden.isEmpty()) throw BadBundle("the bundle has no golden samples to run")
        manifest.modelFile()
        val start = clock.nanos()
        val runner = factory.open(manifest, config.delegate, config.threads)
        runner.use {
            result.put("load_ms", milliseconds(clock.nanos() - start))
            result.put("runtime", facts(runner.facts))
            result.put("protocol", JSONObject().put("warmup", config.warmup).put("runs", config.runs))
            runner.write(manifest.arrays(manifest.golden.first().inputs))
            result.put("warmup_ms", JSONArray(time(config.warmup, runner).toList()))
            val runs = time(config.runs, runner)
            result.put("runs_ms", JSONArray(runs.toList()))
            result.put("statistics", Statistics(runs).toJson())
            result.put("golden", JSONArray(runGolden(manifest, runner).map(::golden)))
        }
    }

    private fun time(n: Int, runner: ModelRunner): DoubleArray = DoubleArray(n) {
        val start = clock.nanos()
        runner.invoke()
        milliseconds(clock.nanos() - start)
    }

    private fun milliseconds(nanos: Long): Double = nanos / 1e6

    private fun facts(runtime: RuntimeFacts): JSONObject = JSONObject()
        .put("name", runtime.name)
        .put("version", runtime.version)
        .put("delegate", runtime.delegate)
        .put("threads", runtime.threads)
        .put("delegated_nodes", runtime.delegatedNodes ?: JSONObject.NULL)
        .put("nodes", runtime.nodes ?: JSONObject.NULL)
        .put("warnings", JSONArray(runtime.warnings))

    private fun golden(sample: GoldenResult): JSONObject = JSONObject()
        .put("outputs", JSONArray(sample.outputs.map(::tensor)))
        .put("max_abs", if (sample.maxAbs.isFinite()) sample.maxAbs else JSONObject.NULL)
        .put("mismatched", sample.mismatched)
        .put("top1", sample.top1 ?: JSONObject.NULL)

    private fun tensor(tensor: Tensor): JSONObject = JSONObject()
        .put("dtype", tensor.dtype.label)
        .put("shape", JSONArray(tensor.shape))
        .put("data", Base64.encode(tensor.data))

    private fun error(kind: String, error: Throwable): JSONObject =
        JSONObject().put("kind", kind).put("message", error.message ?: error.javaClass.simpleName)

    companion object {
        const val SCHEMA_VERSION = 1
    }
}
