package dev.edgekit.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Element types of manifests, by the names that numpy gives them. */
enum class DType(val label: String, val size: Int, val numpy: String) {
    FLOAT32("float32", 4, "<f4"),
    FLOAT16("float16", 2, "<f2"),
    INT8("int8", 1, "|i1"),
    UINT8("uint8", 1, "|u1"),
    INT16("int16", 2, "<i2"),
    INT32("int32", 4, "<i4"),
    INT64("int64", 8, "<i8"),
    BOOL("bool", 1, "|b1")
    ;

    /** Smallest and greatest value of an integer type; null for the others. */
    val limits: LongRange?
        get() =
            when (this) {
                INT8 -> -128L..127L
                UINT8 -> 0L..255L
                INT16 -> -32_768L..32_767L
                INT32 -> Int.MIN_VALUE.toLong()..Int.MAX_VALUE.toLong()
                else -> null
            }

    companion object {
        fun of(label: String): DType =
            entries.firstOrNull { it.label == label } ?: throw BadBundle("unknown element type '$label'")
    }
}

/** Elements in a shape. Raises [BadBundle] when there are more than an array can hold. */
fun elements(shape: List<Int>): Int {
    val n = shape.fold(1L) { product, d -> Math.multiplyExact(product, d.toLong()) }
    if (n > Int.MAX_VALUE / 8) throw BadBundle("a tensor of shape $shape is too large")
    return n.toInt()
}

/** A tensor: [data] holds its elements in C order, little-endian, as .npy files and runtimes store them. */
class Tensor(val dtype: DType, val shape: List<Int>, val data: ByteArray) {
    init {
        if (data.size != elements(shape) * dtype.size) {
            throw BadBundle("a ${dtype.label} tensor of shape $shape has ${data.size} bytes")
        }
    }

    val size: Int get() = data.size / dtype.size

    /** The bytes as a buffer to read from, in their byte order. */
    fun buffer(): ByteBuffer = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN)

    /** Every element as a double: exact for all types but int64 beyond 2^53. */
    fun toDoubles(): DoubleArray {
        val from = buffer()
        return DoubleArray(size) {
            when (dtype) {
                DType.FLOAT32 -> from.getFloat(4 * it).toDouble()
                DType.FLOAT16 -> halfToFloat(from.getShort(2 * it)).toDouble()
                DType.INT8 -> from.get(it).toDouble()
                DType.UINT8, DType.BOOL -> (from.get(it).toInt() and 0xff).toDouble()
                DType.INT16 -> from.getShort(2 * it).toDouble()
                DType.INT32 -> from.getInt(4 * it).toDouble()
                DType.INT64 -> from.getLong(8 * it).toDouble()
            }
        }
    }

    fun toFloats(): FloatArray {
        val floats = FloatArray(size)
        buffer().asFloatBuffer().get(floats)
        return floats
    }

    fun toInts(): IntArray {
        val ints = IntArray(size)
        buffer().asIntBuffer().get(ints)
        return ints
    }

    companion object {
        fun of(values: FloatArray, shape: List<Int>): Tensor {
            val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
            bytes.asFloatBuffer().put(values)
            return Tensor(DType.FLOAT32, shape, bytes.array())
        }

        fun of(values: IntArray, shape: List<Int>): Tensor {
            val bytes = ByteBuffer.allocate(4 * values.size).order(ByteOrder.LITTLE_ENDIAN)
            bytes.asIntBuffer().put(values)
            return Tensor(DType.INT32, shape, bytes.array())
        }
    }
}

/**
 * A tensor as the manifest describes it: [layout] is "NCHW", "NHWC" or null; [scale] and [zeroPoint] are set
 * for quantised integers, real = scale * (stored - zeroPoint).
 */
data class TensorSpec(
    val name: String,
    val shape: List<Int>,
    val dtype: DType,
    val layout: String?,
    val scale: Double?,
    val zeroPoint: Int?
) {
    /** Real values as the file stores them: rounded half to even and clipped, as numpy does. */
    fun toStored(real: FloatArray): Tensor {
        if (scale == null) {
            if (dtype != DType.FLOAT32) throw BadBundle("the input '$name' is ${dtype.label} without a scale")
            return Tensor.of(real, shape)
        }
        val limits = dtype.limits ?: throw BadBundle("the input '$name' has a scale but is ${dtype.label}")
        val bytes = ByteBuffer.allocate(real.size * dtype.size).order(ByteOrder.LITTLE_ENDIAN)
        for (value in real) {
            val steps = Math.rint(value.toDouble() / scale) + (zeroPoint ?: 0)
            val stored = steps.coerceIn(limits.first.toDouble(), limits.last.toDouble()).toLong()
            when (dtype.size) {
                1 -> bytes.put(stored.toByte())
                2 -> bytes.putShort(stored.toShort())
                else -> bytes.putInt(stored.toInt())
            }
        }
        return Tensor(dtype, shape, bytes.array())
    }

    /** Stored values as real ones. */
    fun toReal(stored: Tensor): FloatArray {
        val values = stored.toDoubles()
        val step = scale?.takeIf { stored.dtype.limits != null }
        return FloatArray(values.size) {
            (if (step == null) values[it] else (values[it] - (zeroPoint ?: 0)) * step).toFloat()
        }
    }
}

/** Indices of the [count] highest scores, the lower index first among equals; NaN comes last. */
fun topK(scores: FloatArray, count: Int): List<Int> {
    val order =
        compareBy<Int> { scores[it].isNaN() }
            .thenByDescending { if (scores[it] == 0f) 0f else scores[it] } // -0.0 equals 0.0
            .thenBy { it }
    return scores.indices.sortedWith(order).take(count)
}

/** IEEE 754 binary16 to binary32. */
private fun halfToFloat(half: Short): Float {
    val bits = half.toInt() and 0xffff
    val sign = (bits and 0x8000) shl 16
    val exponent = (bits shr 10) and 0x1f
    val fraction = bits and 0x3ff
    if (exponent == 0) {
        val magnitude = fraction / 16_777_216f // 2^-24, the step of subnormal numbers
        return if (sign == 0) magnitude else -magnitude
    }
    val wide = if (exponent == 0x1f) 0xff else exponent - 15 + 127
    return java.lang.Float.intBitsToFloat(sign or (wide shl 23) or (fraction shl 13))
}
