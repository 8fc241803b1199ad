"""Device profiles: one TOML file per device or device class.

``load_profile`` takes a shipped name or a path; ``list_profiles`` gives all that ship; ``lint`` says
what is missing or contradicts itself in a profile that loads.
"""

from edgekit.profiles.lint import lint
from edgekit.profiles.loader import list_profiles, load_profile
from edgekit.profiles.schema import DeviceProfile, Target

__all__ = ["DeviceProfile", "Target", "lint", "list_profiles", "load_profile"]
