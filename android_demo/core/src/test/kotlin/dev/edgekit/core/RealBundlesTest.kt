package dev.edgekit.core

import java.io.File
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** Bundles that `edgekit build` wrote in the same run of scripts/check_android. */
class RealBundlesTest {
    @Test
    fun realInferenceGivesTheGoldenOutputs() {
        val result = benchmark(given("edgekit.bundle.int8"), "int8")
        assertEquals(result.opt("error").toString(), "ok", result.getString("status"))
        val golden = result.getJSONArray("golden")
        assertTrue(golden.length() > 0)
        for (i in 0 until golden.length()) {
            assertEquals("sample $i", 0, golden.getJSONObject(i).getInt("mismatched"))
            assertEquals("sample $i", 0.0, golden.getJSONObject(i).getDouble("max_abs"), 0.0)
        }
        assertEquals(20, result.getJSONArray("runs_ms").length())
        assertTrue(result.getJSONObject("statistics").getDouble("median") > 0)
    }

    @Test
    fun theBundleForGpusIsRead() {
        val manifest = Manifest.read(given("edgekit.bundle.gpu"))
        assertEquals("android_gpu", manifest.profile)
        assertEquals(listOf("gpu"), manifest.delegates)
        assertEquals("fp16", manifest.precision)
        assertGoldenWithinTolerance(given("edgekit.bundle.gpu"), "gpu")
    }

    @Test
    fun theBundleForNnapiIsRead() {
        val manifest = Manifest.read(given("edgekit.bundle.nnapi"))
        assertEquals("android_nnapi", manifest.profile)
        assertEquals("nnapi", manifest.delegates.first())
        assertEquals("int8", manifest.precision)
        assertGoldenWithinTolerance(given("edgekit.bundle.nnapi"), "nnapi")
    }

    /** The file of a delegate that is not here, on the CPU. */
    private fun assertGoldenWithinTolerance(bundle: File, name: String) {
        val result = benchmark(bundle, name)
        assertEquals(result.opt("error").toString(), "ok", result.getString("status"))
        val golden = result.getJSONArray("golden")
        for (i in 0 until golden.length()) assertEquals(0, golden.getJSONObject(i).getInt("mismatched"))
    }

    private fun benchmark(bundle: File, name: String): JSONObject {
        val extras =
            mapOf(
                "run_id" to "jvm-$name",
                "bundle" to bundle.absolutePath,
                "delegate" to "cpu",
                "threads" to "1",
                "warmup" to "5",
                "runs" to "20"
            )
        val clock = Clock(System::nanoTime)
        val factory = LiteRtFactory(given("edgekit.litert"), System.getProperty("edgekit.litert.version", "unknown"))
        val result = Benchmark(factory, FakeDevice, clock).run(extras)
        System.getProperty("edgekit.results")?.let { File(it, "$name.json").writeText(result.toString(1)) }
        return result
    }
}
