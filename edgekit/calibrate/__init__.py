"""Fitting the coefficients of a profile to a device: tiny models, timed over a link.

``generated_jobs`` makes the models, ``time_jobs`` runs them, ``edgekit.measure.estimate.calibration`` fits,
and ``write_profile`` writes what was found.
"""

from edgekit.calibrate.models import Job, file_job, generated_jobs
from edgekit.calibrate.timing import Rejection, Timed, thread_counts, time_jobs
from edgekit.calibrate.writing import conditions, write_profile

__all__ = [
    "Job",
    "Rejection",
    "Timed",
    "conditions",
    "file_job",
    "generated_jobs",
    "thread_counts",
    "time_jobs",
    "write_profile",
]
