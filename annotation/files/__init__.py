"""Rows of files, both ways: no database, no project.

Reading: a file or folder (parts.py) gives rows (tables.py, columnar.py), a row is a
prompt (prompt_rows.py) or half or all of a pair (pair_formats.py, pairing.py). Writing:
pair_formats.py makes rows, writing.py makes files of them.
"""
