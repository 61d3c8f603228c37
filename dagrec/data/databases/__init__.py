"""Databases as sources of compositions: the tables of n8n and Galaxy, or the rows of any SQL query."""
