"""Rows of files, both ways: no database, no project.

Reading: a file or folder (parts.py) gives rows (tables.py, columnar.py), a row is a
prompt (prompt_rows.py) or half or all of a pair (pair_reading.py, pairing.py). Writing:
pair_restoring.py gives a pair back as the rows it came as, pair_writing.py makes rows
of one that was made here, writing.py makes files of them; columns.py names the columns
of our tables. LLaMA-Factory's rows stand in a file of their own, both ways.
"""
