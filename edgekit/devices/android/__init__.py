"""The Android app of android_demo/ as a way to measure: install, push, `am instrument`, read its result."""

from edgekit.devices.android.app import DELEGATES, PACKAGE, AppRun, app_delegate, run_app
from edgekit.devices.android.result import AppResult, parse_result

__all__ = ["DELEGATES", "PACKAGE", "AppResult", "AppRun", "app_delegate", "parse_result", "run_app"]
