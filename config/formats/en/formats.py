"""English is read by people of every country: 11/12 is two days, 2026-11-12 one.

Chinese keeps Django's formats.
"""

SHORT_DATE_FORMAT = "Y-m-d"
SHORT_DATETIME_FORMAT = "Y-m-d H:i"
