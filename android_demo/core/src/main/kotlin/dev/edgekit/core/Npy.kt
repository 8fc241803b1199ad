package dev.edgekit.core

import java.io.File

/** Reads .npy files, versions 1 to 3, C order, of the types that bundles hold. */
object Npy {
    private val MAGIC = byteArrayOf(0x93.toByte(), 'N'.code.toByte(), 'U'.code.toByte(), 'M'.code.toByte())
    private val DESCR = Regex("'descr'\\s*:\\s*'([^']+)'")
    private val FORTRAN = Regex("'fortran_order'\\s*:\\s*(True|False)")
    private val SHAPE = Regex("'shape'\\s*:\\s*\\(([^)]*)\\)")

    fun read(file: File): Tensor = parse(file.readBytes(), file.name)

    fun parse(bytes: ByteArray, name: String): Tensor {
        fun refuse(why: String): Nothing = throw BadBundle("$name is not a .npy file that can be read: $why")
        if (bytes.size < 12 || !MAGIC.indices.all { bytes[it] == MAGIC[it] }) refuse("it begins otherwise")
        val wide = bytes[6] >= 2
        val lengthBytes = if (wide) 4 else 2
        val start = 8 + lengthBytes
        val length = (0 until lengthBytes).sumOf { (bytes[8 + it].toInt() and 0xff) shl (8 * it) }
        if (length < 0 || start + length > bytes.size) refuse("its header is cut off")
        val header = String(bytes, start, length, Charsets.UTF_8)
        val descr = DESCR.find(header)?.groupValues?.get(1) ?: refuse("its header names no type")
        val dtype = DType.entries.firstOrNull { it.numpy == descr } ?: refuse("its type is $descr")
        if (FORTRAN.find(header)?.groupValues?.get(1) != "False") refuse("it is not in C order")
        val sides = SHAPE.find(header)?.groupValues?.get(1) ?: refuse("its header names no shape")
        val shape =
            sides.split(',').map(String::trim).filter(String::isNotEmpty).map {
                it.toIntOrNull() ?: refuse("its shape is ($sides)")
            }
        return Tensor(dtype, shape, bytes.copyOfRange(start + length, bytes.size))
    }
}
