package dev.edgekit.core

import kotlin.io.encoding.Base64
import org.json.JSONObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class BenchmarkTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val ticking =
        object : Clock {
            private var now = 0L

            override fun nanos(): Long = now.also { now += 2_000_000 }
        }

    private fun extras(vararg changes: Pair<String, String?>): Map<String, String?> = mapOf(
        "run_id" to "r1",
        "bundle" to folder.root.path,
        "delegate" to "cpu",
        "threads" to "2",
        "warmup" to "3",
        "runs" to "5"
    ) + changes

    private fun run(extras: Map<String, String?>, factory: FakeFactory = FakeFactory()): JSONObject =
        JSONObject(Benchmark(factory, FakeDevice, ticking).run(extras).toString())

    private fun assertFailed(result: JSONObject, kind: String, text: String) {
        assertEquals("failed", result.getString("status"))
        assertEquals("tflite 1", result.getString("runtime_version"))
        val error = result.getJSONObject("error")
        assertEquals(kind, error.getString("kind"))
        assertTrue(error.getString("message"), error.getString("message").contains(text))
        assertEquals(0, result.getJSONObject("thermal").getJSONObject("after").getInt("status"))
        assertFalse(result.has("golden"))
    }

    @Test
    fun aRunIsReported() {
        smallBundle(folder.root)
        val factory = FakeFactory()
        val result = run(extras(), factory)
        assertEquals("ok", result.getString("status"))
        assertTrue(result.isNull("error"))
        assertEquals("r1", result.getString("run_id"))
        assertEquals(3, result.getJSONArray("warmup_ms").length())
        assertEquals(5, result.getJSONArray("runs_ms").length())
        assertEquals(2.0, result.getJSONObject("statistics").getDouble("median"), 0.0)
        assertEquals(2.0, result.getDouble("load_ms"), 0.0)
        assertEquals("cpu", result.getJSONObject("runtime").getString("delegate"))
        assertEquals(digest("model".toByteArray()), result.getJSONObject("bundle").getString("model_sha256"))
        val golden = result.getJSONArray("golden").getJSONObject(0)
        assertEquals(0, golden.getInt("mismatched"))
        assertEquals(1, golden.getInt("top1"))
        val output = golden.getJSONArray("outputs").getJSONObject(0)
        assertArrayEquals(byteArrayOf(3, 9), Base64.decode(output.getString("data")))
        val runner = factory.opened.single()
        assertEquals(3 + 5 + 1, runner.invocations)
        assertTrue(runner.closed)
    }

    @Test
    fun otherOutputsAreCounted() {
        smallBundle(folder.root)
        val golden = run(extras(), FakeFactory(byteArrayOf(5, 4))).getJSONArray("golden").getJSONObject(0)
        assertEquals(2, golden.getInt("mismatched"))
        assertEquals(5.0, golden.getDouble("max_abs"), 0.0)
        assertEquals(0, golden.getInt("top1"))
    }

    @Test
    fun aRefusedDelegateIsLoud() {
        smallBundle(folder.root)
        assertFailed(run(extras("delegate" to "gpu")), "delegate", "no GPU here")
        assertFailed(run(extras("delegate" to "nnapi")), "delegate", "cpu, gpu, not 'nnapi'")
    }

    @Test
    fun badOptionsAreNamed() {
        for ((key, value) in listOf("threads" to "0", "runs" to "many", "warmup" to "-1", "runs" to null)) {
            assertFailed(run(extras(key to value)), "configuration", key)
        }
        assertFailed(run(extras("colour" to "red")), "configuration", "unknown options: colour")
        assertFailed(run(extras("bundle" to "relative")), "configuration", "absolute")
        val noId = run(extras("run_id" to "a b"))
        assertFailed(noId, "configuration", "run_id")
        assertTrue(noId.isNull("run_id"))
    }

    @Test
    fun anotherBundleIsRefused() {
        assertFailed(run(extras()), "bundle", "no manifest.json")
        smallBundle(folder.root) { it.getJSONObject("runtime").put("name", "onnx") }
        assertFailed(run(extras()), "bundle", "for onnx")
    }

    @Test
    fun outputsOfAnotherShapeCannotBeCompared() {
        smallBundle(folder.root)
        assertFailed(run(extras(), FakeFactory(byteArrayOf(1, 2, 3))), "runtime", "an output is int8 [1, 3]")
    }

    @Test
    fun quantilesInterpolate() {
        val s = Statistics(doubleArrayOf(4.0, 1.0, 3.0, 2.0))
        assertEquals(2.5, s.median, 0.0)
        assertEquals(3.7, s.p90, 1e-12)
        assertEquals(1.0, s.toJson().getDouble("min"), 0.0)
        assertThrows(IllegalArgumentException::class.java) { Statistics(doubleArrayOf()) }
    }

    @Test
    fun nanAgreesWithNanOnly() {
        val exact = Tolerance(0.0, 0.0)
        fun tensor(vararg v: Float) = Tensor.of(v, listOf(v.size))
        assertEquals(0.0 to 0, difference(tensor(Float.NaN, 1f), tensor(Float.NaN, 1f), exact))
        assertEquals(Double.POSITIVE_INFINITY to 1, difference(tensor(Float.NaN), tensor(1f), Tolerance(9.0, 9.0)))
        assertEquals(0.5 to 0, difference(tensor(2f), tensor(2.5f), Tolerance(0.1, 0.2)))
        assertEquals(1, difference(tensor(Float.POSITIVE_INFINITY), tensor(1f), Tolerance(1.0, 1.0)).second)
    }

    @Test
    fun aPictureIsClassified() {
        smallBundle(folder.root) { manifest ->
            val input = manifest.getJSONArray("inputs").getJSONObject(0)
            input.put("shape", org.json.JSONArray(listOf(1, 1, 2, 1))).put("layout", "NHWC")
            manifest.getJSONObject("preprocessing").put("scale", 255.0).put("channel_order", "GRAY")
        }
        val factory = FakeFactory()
        val manifest = Manifest.read(folder.root)
        Classifier(manifest, factory.open(manifest, "cpu", 1), ticking).use { classifier ->
            val found = classifier.classify(Image(2, 1, 1, byteArrayOf(0, -1)), 2)
            assertEquals(listOf(Ranked("right", 4f), Ranked("left", 1f)), found.top)
            assertEquals(2.0, found.latencyMs, 0.0)
        }
        // 0 / 255 and 255 / 255 in steps of 0.5 from zero point 1
        assertArrayEquals(byteArrayOf(1, 3), factory.opened.single().written.single().data)
        assertTrue(factory.opened.single().closed)
    }
}
