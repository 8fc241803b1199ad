package dev.edgekit.core

import java.io.File
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class BundleTest {
    @get:Rule
    val folder = TemporaryFolder()

    @Test
    fun aBundleIsRead() {
        val manifest = Manifest.read(smallBundle(folder.root))
        assertEquals("small", manifest.name)
        assertEquals(listOf("xnnpack"), manifest.delegates)
        assertEquals(TensorSpec("in", listOf(1, 2), DType.INT8, null, 0.5, 1), manifest.inputs.single())
        assertEquals(Preprocessing(null, null, null, null, null), manifest.preprocessing)
        assertEquals(listOf(3.0, 9.0), manifest.arrays(manifest.golden.single().outputs).single().toDoubles().toList())
        assertEquals("right", manifest.label(1))
        assertEquals("class 2", manifest.label(2))
    }

    @Test
    fun damageIsNoticed() {
        val manifest = Manifest.read(smallBundle(folder.root))
        File(folder.root, "model.tflite").writeText("other")
        assertRefused("model.tflite is damaged") { manifest.modelFile() }
    }

    @Test
    fun filesOutsideAreRefused() {
        for (name in listOf("../x", "/etc/passwd", "a\\b", "C:x", "")) {
            val root = folder.newFolder()
            smallBundle(root) { it.getJSONArray("models").getJSONObject(0).put("path", name) }
            assertRefused("plain relative path") { Manifest.read(root).modelFile() }
        }
    }

    @Test
    fun aMalformedManifestIsRefusedWithItsPlace() {
        assertRefused("has no manifest.json") { Manifest.read(folder.newFolder()) }
        refuses("schema_version 2") { it.put("schema_version", 2) }
        refuses("labels") { it.remove("labels") }
        refuses("channel_order") { it.getJSONObject("preprocessing").remove("channel_order") }
        refuses("Index 0 out of range") { it.put("models", JSONArray()) }
        refuses("complex64") { it.getJSONArray("inputs").getJSONObject(0).put("dtype", "complex64") }
        val broken = folder.newFolder()
        File(broken, "manifest.json").writeText("{")
        assertRefused("not a valid manifest") { Manifest.read(broken) }
    }

    @Test
    fun npyFilesAreRead() {
        for (dtype in DType.entries) {
            val tensor = Tensor(dtype, listOf(2, 3), ByteArray(6 * dtype.size) { (it % 2).toByte() })
            val read = Npy.parse(npy(tensor), "x.npy")
            assertEquals(dtype, read.dtype)
            assertEquals(listOf(2, 3), read.shape)
            assertTrue(tensor.data.contentEquals(read.data))
        }
        assertEquals(emptyList<Int>(), Npy.parse(npy(Tensor(DType.INT8, emptyList(), ByteArray(1))), "x").shape)
    }

    @Test
    fun otherNpyFilesAreRefused() {
        val good = npy(Tensor(DType.INT8, listOf(2), ByteArray(2)))
        fun changed(old: String, new: String) =
            String(good, Charsets.ISO_8859_1).replace(old, new).toByteArray(Charsets.ISO_8859_1)
        assertRefused("begins otherwise") { Npy.parse(ByteArray(20), "x.npy") }
        assertRefused("its type is |O") { Npy.parse(changed("|i1", "|O"), "x.npy") }
        assertRefused("C order") { Npy.parse(changed("False", "True "), "x.npy") }
        assertRefused("cut off") { Npy.parse(good.copyOf(20), "x.npy") }
        assertRefused("has 1 bytes") { Npy.parse(good.copyOf(good.size - 1), "x.npy") }
    }

    @Test
    fun halfPrecisionIsRead() {
        val bits = intArrayOf(0x3c00, 0xc000, 0x0001, 0x7c00, 0x7bff)
        val bytes = bits.flatMap { listOf(it.toByte(), (it shr 8).toByte()) }.toByteArray()
        val expected = listOf(1.0, -2.0, Math.pow(2.0, -24.0), Double.POSITIVE_INFINITY, 65_504.0)
        assertEquals(expected, Tensor(DType.FLOAT16, listOf(5), bytes).toDoubles().toList())
    }

    private fun refuses(text: String, change: (JSONObject) -> Unit) {
        val root = folder.newFolder()
        smallBundle(root, change)
        assertRefused(text) { Manifest.read(root) }
    }

    private fun assertRefused(text: String, block: () -> Unit) {
        val error = assertThrows(BadBundle::class.java) { block() }
        assertTrue(error.message, error.message!!.contains(text))
    }
}
