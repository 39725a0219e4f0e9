"""How one person likes the compare page to be: keys, pace, text size."""

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.projects import USER


class Preferences(models.Model):
    """One row per person who has changed something; without it the defaults hold."""

    class TextSize(models.TextChoices):
        NORMAL = "", _("normal")
        LARGE = "large", _("large")
        LARGER = "larger", _("very large")

    user = models.OneToOneField(USER, models.CASCADE, related_name="preferences")
    keys = models.JSONField(default=dict, blank=True)
    """{action: key} where it differs from annotation/keys.py; "" is no key at all."""
    beat = models.PositiveSmallIntegerField(default=120)
    """Milliseconds for which a pick is seen before the next pair comes."""
    break_minutes = models.PositiveSmallIntegerField(
        default=50, validators=[MaxValueValidator(600)]
    )
    """Minutes of work after which a break is suggested; 0 is never."""
    text_size = models.CharField(max_length=6, choices=TextSize, default="", blank=True)

    class Meta:
        verbose_name_plural = "preferences"
        constraints = [
            models.CheckConstraint(
                condition=Q(beat__lte=2000), name="beat_at_most_two_seconds"
            ),
            models.CheckConstraint(
                condition=Q(text_size__in=["", "large", "larger"]),
                name="text_size_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}"
