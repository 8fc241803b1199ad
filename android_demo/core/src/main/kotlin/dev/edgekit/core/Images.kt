package dev.edgekit.core

import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max

/** An 8-bit picture: [data] holds height x width x [channels] values, rows from the top, RGB or grey. */
class Image(val width: Int, val height: Int, val channels: Int, val data: ByteArray) {
    init {
        require(width > 0 && height > 0 && (channels == 1 || channels == 3)) { "$width x $height x $channels" }
        require(data.size == width * height * channels) { "${data.size} bytes for $width x $height x $channels" }
    }

    fun at(x: Int, y: Int, c: Int): Int = data[(y * width + x) * channels + c].toInt() and 0xff

    /** One grey channel by ITU-R 601, in the fixed-point form that Pillow computes. */
    fun toGray(): Image {
        if (channels == 1) return this
        val gray =
            ByteArray(width * height) {
                val r = data[3 * it].toInt() and 0xff
                val g = data[3 * it + 1].toInt() and 0xff
                val b = data[3 * it + 2].toInt() and 0xff
                ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) shr 16).toByte()
            }
        return Image(width, height, 1, gray)
    }

    /** Turned upright: [orientation] is the EXIF tag 0x0112, 1 to 8. */
    fun upright(orientation: Int): Image {
        if (orientation !in 2..8) return this
        val swaps = orientation >= 5
        val w = if (swaps) height else width
        val h = if (swaps) width else height
        val turned = ByteArray(data.size)
        for (y in 0 until h) {
            for (x in 0 until w) {
                val u = if (swaps) y else x
                val v = if (swaps) x else y
                val fromX = if (orientation in setOf(2, 3, 7, 8)) width - 1 - u else u
                val fromY = if (orientation in setOf(3, 4, 6, 7)) height - 1 - v else v
                val from = (fromY * width + fromX) * channels
                data.copyInto(turned, (y * w + x) * channels, from, from + channels)
            }
        }
        return Image(w, h, channels, turned)
    }

    /**
     * Scaled by a bilinear filter with antialiasing: the same fixed-point arithmetic as Pillow's
     * `Image.resize(size, BILINEAR)` on 8-bit pictures (src/libImaging/Resample.c), bit for bit, and in the same
     * order of the two passes: as of version 13 the vertical one comes first where it removes far more.
     */
    fun resized(newWidth: Int, newHeight: Int): Image {
        val verticalFirst = height > newHeight && height - newHeight > 2 * (width - newWidth)
        return if (verticalFirst) rows(newHeight).columns(newWidth) else columns(newWidth).rows(newHeight)
    }

    private fun columns(n: Int): Image = if (n == width) this else pass(Weights(width, n), horizontal = true)

    private fun rows(n: Int): Image = if (n == height) this else pass(Weights(height, n), horizontal = false)

    private fun pass(weights: Weights, horizontal: Boolean): Image {
        val w = if (horizontal) weights.size else width
        val h = if (horizontal) height else weights.size
        val out = ByteArray(w * h * channels)
        for (y in 0 until h) {
            for (x in 0 until w) {
                val place = if (horizontal) x else y
                val first = weights.first[place]
                val kernel = weights.kernels[place]
                for (c in 0 until channels) {
                    var sum = 1 shl (PRECISION - 1)
                    for (k in kernel.indices) {
                        val value = if (horizontal) at(first + k, y, c) else at(x, first + k, c)
                        sum += value * kernel[k]
                    }
                    out[(y * w + x) * channels + c] = (sum shr PRECISION).coerceIn(0, 255).toByte()
                }
            }
        }
        return Image(w, h, channels, out)
    }

    /** The part of [w] x [h] pixels whose left upper corner is ([left], [top]). */
    fun cropped(left: Int, top: Int, w: Int, h: Int): Image {
        require(left >= 0 && top >= 0 && left + w <= width && top + h <= height) { "crop outside of the picture" }
        val out = ByteArray(w * h * channels)
        for (y in 0 until h) {
            val from = ((top + y) * width + left) * channels
            data.copyInto(out, y * w * channels, from, from + w * channels)
        }
        return Image(w, h, channels, out)
    }

    /** Scaled to just cover [w] x [h], keeping its proportions, and cropped about the centre. */
    fun covering(w: Int, h: Int): Image {
        val factor = max(w.toDouble() / width, h.toDouble() / height)
        val coverW = max(w, Math.rint(width * factor).toInt())
        val coverH = max(h, Math.rint(height * factor).toInt())
        return resized(coverW, coverH).cropped((coverW - w) / 2, (coverH - h) / 2, w, h)
    }

    /** For each target pixel the first source pixel and the fixed-point weights from there on. */
    private class Weights(sourceSize: Int, val size: Int) {
        val first = IntArray(size)
        val kernels: Array<IntArray>

        init {
            val scale = sourceSize.toDouble() / size
            val filterScale = max(scale, 1.0)
            val support = filterScale // the triangle filter reaches 1 pixel
            kernels =
                Array(size) { place ->
                    val center = (place + 0.5) * scale
                    val low = max((center - support + 0.5).toInt(), 0)
                    val high = minOf((center + support + 0.5).toInt(), sourceSize)
                    first[place] = low
                    val inverse = 1.0 / filterScale
                    val raw = DoubleArray(high - low) { triangle((it + low - center + 0.5) * inverse) }
                    val total = raw.sum()
                    IntArray(raw.size) { fixed(if (total != 0.0) raw[it] / total else raw[it]) }
                }
        }

        private fun triangle(x: Double): Double = max(0.0, 1.0 - Math.abs(x))

        private fun fixed(weight: Double): Int {
            val scaled = weight * (1 shl PRECISION)
            return if (weight < 0) ceil(scaled - 0.5).toInt() else floor(scaled + 0.5).toInt()
        }
    }

    private companion object {
        const val PRECISION = 32 - 8 - 2
    }
}

/** Real values of the model's input, in the file's layout, from a picture, exactly as the manifest states. */
fun Preprocessing.prepare(picture: Image, input: TensorSpec): FloatArray {
    val divisor = scale ?: throw BadBundle("the manifest does not say how pictures become inputs")
    val order = channelOrder ?: throw BadBundle("the manifest does not say how pictures become inputs")
    val layout = input.layout
    if ((layout != "NHWC" && layout != "NCHW") || input.shape.size != 4) {
        throw BadBundle("the input '${input.name}' is not a picture")
    }
    val (height, width, channels) = "HWC".map { input.shape[layout.indexOf(it)] }
    val colours = if (order == "GRAY") picture.toGray() else picture
    if (colours.channels != channels) {
        throw BadBundle("the input '${input.name}' has $channels channels, $order pictures have ${colours.channels}")
    }
    val fitting = colours.covering(width, height)
    val values = FloatArray(width * height * channels)
    for (c in 0 until channels) {
        val from = if (order == "BGR") channels - 1 - c else c
        val shift = mean?.let { it[if (it.size == 1) 0 else c].toFloat() }
        val spread = std?.let { it[if (it.size == 1) 0 else c].toFloat() }
        for (y in 0 until height) {
            for (x in 0 until width) {
                var value = fitting.at(x, y, from).toFloat() / divisor.toFloat()
                if (shift != null) value -= shift
                if (spread != null) value /= spread
                val place =
                    if (layout == "NHWC") (y * width + x) * channels + c else (c * height + y) * width + x
                values[place] = value
            }
        }
    }
    return values
}
