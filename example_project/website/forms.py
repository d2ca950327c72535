"""What a visitor fills in."""

from __future__ import annotations

from django import forms
from django.core.validators import RegexValidator

from example_project.website.chains import POLICIES

LEVELS = {1: "A little", 2: "More", 3: "A lot"}
POLICY_WORDS = {
    "replace": ("Replace it", "It is cancelled, and this one starts."),
    "keep": ("Keep it", "It goes on, and this one does not start."),
    "append": ("Wait for it", "This one starts when it is done."),
}


class PhotoForm(forms.Form):
    """A photograph, and what is to become of it."""

    photo = forms.FileField(
        allow_empty_file=True,
        widget=forms.FileInput(attrs={"accept": "image/jpeg,image/png,image/webp"}),
        error_messages={"required": "Choose a photo first."},
    )
    level = forms.TypedChoiceField(
        choices=list(LEVELS.items()),
        coerce=int,
        initial=2,
        widget=forms.RadioSelect,
        error_messages={"required": "Choose how much to blur it."},
    )
    policy = forms.ChoiceField(
        choices=[(key, POLICY_WORDS[key][0]) for key in POLICIES],
        initial="replace",
        widget=forms.RadioSelect,
    )
    charging = forms.BooleanField(required=False)
    label = forms.CharField(
        max_length=30,
        required=False,
        validators=[RegexValidator(r"^[\w][\w -]*$", "Letters, digits, spaces and hyphens, please.")],
    )
