"""What the server itself shows of a work."""

from __future__ import annotations

import pytest
from django.template import Context, Template, TemplateSyntaxError


def shown(info, arguments: str = "", **context: str) -> str:
    page = Template(f"{{% load workmanager %}}{{% work_progress info {arguments} %}}")
    return page.render(Context({"info": info, **context}))


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_the_tag_shows_state_and_progress(kit, wm, paint):
    work = paint()
    waiting = shown(wm.get_work_info_by_id(work))
    kit.run_until_idle()
    done = shown(wm.get_work_info_by_id(work))

    assert f'<work-progress data-work="{work}" data-url="/works/" data-state="ENQUEUED" data-version="1"' in waiting
    assert '<span data-part="state" role="status">Waiting</span>' in waiting
    assert '<progress data-part="bar" max="100" value="0" aria-label="paint">' in waiting
    assert '<progress data-part="bar" max="100" value="100" aria-label="paint">' in done


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_an_error_is_told_by_its_class_only(kit, wm, paint):
    work = paint(fails=True, secret="xyzzy")
    kit.run_until_idle()

    html = shown(wm.get_work_info_by_id(work))

    assert '<span data-part="note">ValueError</span>' in html
    assert "xyzzy" not in html


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_words_and_the_label_are_the_pages(wm, paint):
    info = wm.get_work_info_by_id(paint())

    html = shown(info, 'label=title enqueued="wartet"', title='<b>"Bild"')

    assert 'data-enqueued="wartet"' in html
    assert ">wartet</span>" in html
    assert 'aria-label="&lt;b&gt;&quot;Bild&quot;"' in html
    with pytest.raises(TemplateSyntaxError, match="expected words for states, got: waiting"):
        shown(info, 'waiting="wartet"')


def test_nothing_is_shown_of_nothing():
    assert shown(None).strip() == ""
