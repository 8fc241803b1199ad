"""The programs of a phone that have to do with apps, and an app whose answers a test chooses.

They are scripts for the phone's own shell: the package manager, the activity manager and run-as print and
return what AOSP's do (frameworks/base/cmds/am, system/core/run-as).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = "dev.edgekit.demo"

_APPS = "/data/app"
_DATA = f"/data/data/{PACKAGE}"

_CMD = f"""#!/system/bin/sh
# cmd package install -r -g -S SIZE
size=
while [ "$#" -gt 0 ]; do
    [ "$1" = -S ] && size=$2
    shift
done
head -c "$size" >{_APPS}/base.apk
mkdir -p {_DATA}/files
echo Success
"""
_PM = f"""#!/system/bin/sh
[ "$1 $2" = "path {PACKAGE}" ] && [ -f {_APPS}/base.apk ] && echo package:{_APPS}/base.apk
"""
_RUN_AS = """#!/system/bin/sh
package=$1
shift
cd "/data/data/$package" 2>/dev/null || { echo "run-as: unknown package: $package" >&2; exit 1; }
exec "$@"
"""
_AM = f"""#!/system/bin/sh
[ "$1" = instrument ] || exit 0
while [ "$#" -gt 0 ]; do
    case $1 in
        -e) eval "extra_$2=\\$3"; shift 3 ;;
        *) component=$1; shift ;;
    esac
done
if [ ! -f {_APPS}/base.apk ]; then
    echo 'INSTRUMENTATION_STATUS: id=ActivityManagerService'
    echo "INSTRUMENTATION_STATUS: Error=Unable to find instrumentation info for: ComponentInfo{{$component}}"
    echo 'INSTRUMENTATION_STATUS_CODE: -1'
    echo "android.util.AndroidException: INSTRUMENTATION_FAILED: $component"
    exit 1
fi
read -r behaviour <{_APPS}/behaviour
if [ "$behaviour" = crash ]; then
    error=java.lang.UnsatisfiedLinkError
    echo "INSTRUMENTATION_RESULT: shortMsg=$error"
    echo "INSTRUMENTATION_RESULT: longMsg=$error: dlopen failed: library \\"libx.so\\" not found"
    echo 'INSTRUMENTATION_CODE: 0'
    exit 0
fi
# An app is another user than the shell: it needs the rights of others, all the way down.
refused=
folder=$extra_bundle
while [ "$folder" != /data/local/tmp ]; do
    case $(ls -ld "$folder") in
        d????????x*) ;;
        *) refused=$folder ;;
    esac
    folder=${{folder%/*}}
done
case $(ls -l "$extra_bundle/manifest.json") in
    -??????r*) ;;
    *) refused=$extra_bundle/manifest.json ;;
esac
if [ -n "$refused" ]; then
    echo "INSTRUMENTATION_RESULT: shortMsg=java.io.FileNotFoundException: $refused: Permission denied"
    echo 'INSTRUMENTATION_CODE: 0'
    exit 0
fi
digest=$(sha256sum "$extra_bundle/model.tflite")
run_id=$extra_run_id
[ "$behaviour" = another ] && run_id=another
folder={_DATA}/files/edgekit/$extra_run_id
mkdir -p "$folder"
sed -e "s/RUN_ID/$run_id/" -e "s/MODEL_SHA256/${{digest%% *}}/" -e "s/DELEGATE/$extra_delegate/" \\
    {_APPS}/result.json >"$folder/result.json"
echo 'INSTRUMENTATION_RESULT: status=ok'
echo 'INSTRUMENTATION_CODE: -1'
"""


class PhoneApps:
    """What can be installed on a phone whose files lie in ``root``, and how the app there behaves."""

    def __init__(self, root: Path) -> None:
        self._apps = root / _APPS.lstrip("/")
        self._data = root / "data/data"
        for folder in (self._apps, self._data):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
        for name, text in (("cmd", _CMD), ("pm", _PM), ("run-as", _RUN_AS), ("am", _AM)):
            program = root / "system/bin" / name
            program.write_text(text)
            program.chmod(0o755)

    def behave(self, behaviour: str, result: Mapping[str, Any]) -> None:
        """ "ok", "crash" or "another" (run's id in the result); RUN_ID, MODEL_SHA256 and DELEGATE in
        ``result`` are filled in by the app."""
        (self._apps / "behaviour").write_text(f"{behaviour}\n")
        (self._apps / "result.json").write_text(json.dumps(result))

    @property
    def apk(self) -> bytes | None:
        """The installed app's file, None when none is installed."""
        file = self._apps / "base.apk"
        return file.read_bytes() if file.exists() else None

    def remove(self) -> None:
        """Uninstall the app."""
        (self._apps / "base.apk").unlink(missing_ok=True)

    def left(self) -> list[str]:
        """Names of results that still lie in the app's files."""
        return sorted(p.name for p in self._data.glob(f"{PACKAGE}/files/edgekit/*"))
