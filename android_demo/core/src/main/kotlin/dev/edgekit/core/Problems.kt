package dev.edgekit.core

/** A problem that the result reports in words; [kind] is what edgekit tells apart. */
sealed class Problem(val kind: String, message: String, cause: Throwable? = null) : Exception(message, cause)

/** What was asked for cannot be meant: a missing or malformed option. */
class BadConfiguration(message: String) : Problem("configuration", message)

/** The bundle is not one, is damaged, or is not for this app. */
class BadBundle(message: String, cause: Throwable? = null) : Problem("bundle", message, cause)

/** The runtime or the device does not run this model on the delegate that was asked for. */
class DelegateRefused(message: String, cause: Throwable? = null) : Problem("delegate", message, cause)

/** The runtime failed while it loaded or ran the model. */
class RuntimeFailed(message: String, cause: Throwable? = null) : Problem("runtime", message, cause)
