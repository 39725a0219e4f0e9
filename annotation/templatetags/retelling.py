"""`{{ text|retold }}`: what a worker noted in English, in the reader's language."""

from django import template

from annotation.retelling import retold

register = template.Library()
register.filter("retold", retold)
