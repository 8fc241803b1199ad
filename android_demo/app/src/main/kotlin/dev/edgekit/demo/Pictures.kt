package dev.edgekit.demo

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.ExifInterface
import android.net.Uri
import androidx.camera.core.ImageProxy
import dev.edgekit.core.BadConfiguration
import dev.edgekit.core.Image

/** A picture file in full size, upright. */
fun readPicture(resolver: ContentResolver, uri: Uri): Image {
    val bitmap =
        resolver.openInputStream(uri)?.use(BitmapFactory::decodeStream)
            ?: throw BadConfiguration("$uri is not a picture that Android reads")
    val normal = ExifInterface.ORIENTATION_NORMAL
    val orientation =
        resolver.openInputStream(uri)?.use {
            ExifInterface(it).getAttributeInt(ExifInterface.TAG_ORIENTATION, normal)
        } ?: normal
    return bitmap.toImage().upright(orientation)
}

private fun Bitmap.toImage(): Image {
    val rgb = ByteArray(width * height * 3)
    val row = IntArray(width)
    var at = 0
    for (y in 0 until height) {
        getPixels(row, 0, width, 0, y, width, 1)
        for (argb in row) {
            rgb[at++] = (argb shr 16).toByte()
            rgb[at++] = (argb shr 8).toByte()
            rgb[at++] = argb.toByte()
        }
    }
    return Image(width, height, 3, rgb)
}

/** A frame of ImageAnalysis in RGBA_8888, turned upright. */
fun ImageProxy.toImage(): Image {
    val plane = planes[0]
    val rgba = plane.buffer
    val rgb = ByteArray(width * height * 3)
    var at = 0
    for (y in 0 until height) {
        var from = y * plane.rowStride
        for (x in 0 until width) {
            for (c in 0 until 3) rgb[at++] = rgba.get(from + c)
            from += plane.pixelStride
        }
    }
    // Degrees to turn clockwise, as the EXIF orientation that says the same.
    val orientation = mapOf(90 to 6, 180 to 3, 270 to 8)[imageInfo.rotationDegrees] ?: 1
    return Image(width, height, 3, rgb).upright(orientation)
}
