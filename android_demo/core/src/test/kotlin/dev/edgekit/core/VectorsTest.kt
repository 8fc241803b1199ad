package dev.edgekit.core

import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The golden vectors that edgekit computes (scripts/android_vectors.py), bit for bit. */
class VectorsTest {
    private val vectors by lazy { JSONObject(given("edgekit.vectors").readText()) }

    @Test
    fun picturesBecomeInputs() {
        val cases = all("pictures")
        assertTrue("only ${cases.size} pictures", cases.size >= 15)
        for (case in cases) {
            val input = spec(case.getJSONObject("input"))
            val picture = Image(case.getInt("width"), case.getInt("height"), 3, decoded(case, "pixels"))
            val upright = picture.upright(case.getInt("orientation"))
            val real = preprocessing(case.getJSONObject("preprocessing")).prepare(upright, input)
            assertArrayEquals(input.name, floats(decoded(case, "real")), real, 0f)
            assertArrayEquals(input.name, decoded(case, "stored"), input.toStored(real).data)
        }
    }

    @Test
    fun storedOutputsBecomeRealValues() {
        val cases = all("outputs")
        assertEquals(3, cases.size)
        for (case in cases) {
            val output = spec(case.getJSONObject("output"))
            val real = output.toReal(Tensor(output.dtype, output.shape, decoded(case, "stored")))
            assertArrayEquals(output.name, floats(decoded(case, "real")), real, 0f)
        }
    }

    @Test
    fun highestScores() {
        val cases = all("top")
        assertEquals(4, cases.size)
        for (case in cases) {
            val expected = case.getJSONArray("indices").let { List(it.length(), it::getInt) }
            assertEquals(expected, topK(floats(decoded(case, "scores")), case.getInt("count")))
        }
    }

    private fun all(key: String): List<JSONObject> =
        vectors.getJSONArray(key).let { list -> List(list.length(), list::getJSONObject) }

    private fun spec(data: JSONObject) = TensorSpec(
        name = data.getString("name"),
        shape = data.getJSONArray("shape").let { List(it.length(), it::getInt) },
        dtype = DType.of(data.getString("dtype")),
        layout = if (data.isNull("layout")) null else data.getString("layout"),
        scale = if (data.isNull("scale")) null else data.getDouble("scale"),
        zeroPoint = if (data.isNull("zero_point")) null else data.getInt("zero_point")
    )

    private fun preprocessing(data: JSONObject) = Preprocessing(
        resize = data.getJSONArray("resize").let { it.getInt(0) to it.getInt(1) },
        scale = data.getDouble("scale"),
        mean = numbers(data.optJSONArray("mean")),
        std = numbers(data.optJSONArray("std")),
        channelOrder = data.getString("channel_order")
    )

    private fun numbers(list: JSONArray?): List<Double>? = list?.let { List(it.length(), it::getDouble) }
}
