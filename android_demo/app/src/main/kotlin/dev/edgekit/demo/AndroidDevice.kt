package dev.edgekit.demo

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import dev.edgekit.core.Device
import java.io.File
import org.json.JSONObject

/** What Android tells of the device; what a version does not tell is null. */
class AndroidDevice(private val context: Context) : Device {
    override fun facts(): JSONObject {
        val hasSoc = Build.VERSION.SDK_INT >= Build.VERSION_CODES.S
        return JSONObject()
            .put("manufacturer", Build.MANUFACTURER)
            .put("model", Build.MODEL)
            .put("soc", if (hasSoc) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else JSONObject.NULL)
            .put("hardware", Build.HARDWARE)
            .put("api_level", Build.VERSION.SDK_INT)
            .put("android", Build.VERSION.RELEASE)
            .put("abi", Build.SUPPORTED_ABIS.first())
            .put("cores", Runtime.getRuntime().availableProcessors())
            .put("app_version", BuildConfig.VERSION_NAME)
    }

    override fun thermal(): JSONObject {
        val power = context.getSystemService(PowerManager::class.java)
        val api = Build.VERSION.SDK_INT
        val status = if (api >= Build.VERSION_CODES.Q) power.currentThermalStatus else null
        val headroom = if (api >= Build.VERSION_CODES.R) power.getThermalHeadroom(0).toDouble() else Double.NaN
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        val tenths = battery.number(BatteryManager.EXTRA_TEMPERATURE)
        return JSONObject()
            .put("status", status ?: JSONObject.NULL)
            .put("headroom", if (headroom.isNaN()) JSONObject.NULL else headroom)
            .put("battery_temperature_c", tenths?.let { it / 10.0 } ?: JSONObject.NULL)
            .put("battery_percent", battery.number(BatteryManager.EXTRA_LEVEL) ?: JSONObject.NULL)
            .put("plugged", battery.number(BatteryManager.EXTRA_PLUGGED)?.let { it != 0 } ?: JSONObject.NULL)
            .put("power_save", power.isPowerSaveMode)
    }

    override fun peakRssKb(): Long? = File("/proc/self/status").useLines { lines ->
        lines.firstOrNull { it.startsWith("VmHWM:") }?.filter(Char::isDigit)?.toLongOrNull()
    }

    private fun Intent?.number(extra: String): Int? = this?.getIntExtra(extra, ABSENT)?.takeIf { it != ABSENT }

    private companion object {
        const val ABSENT = Int.MIN_VALUE
    }
}
