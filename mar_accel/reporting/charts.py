"""The charts of a report, as Altair charts over named data; page and files use the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mar_accel.reporting.axes import Column
from mar_accel.reporting.front import Scale
from mar_accel.utils.figures import PALETTE, SEQUENTIAL

INK, GREY, LIGHT = "#1f2328", "#6e7781", "#e6e8eb"
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
)


@dataclass(frozen=True)
class Look:
    """Size and fonts of a chart.

    Attributes:
        width, height: size of the plot in pixels, 72 to the inch in print.
        font: size of names and of numbers at the axes; titles are one pixel larger.
    """

    width: int
    height: int
    font: int


_ENDS = (("min", "low"), ("max", "high"))
PAGE, PRINT = Look(960, 460, 12), Look(400, 270, 9)


def styled(chart: Any, look: Look) -> dict[str, Any]:
    """The chart as a Vega-Lite specification in the look of all figures."""
    font, title = look.font, look.font + 1
    axis = {
        "labelFontSize": font,
        "titleFontSize": title,
        "titleFontWeight": "normal",
        "titleColor": INK,
        "labelColor": INK,
        "gridColor": LIGHT,
        "domainColor": GREY,
        "tickColor": GREY,
    }
    legend = {
        "labelFontSize": font,
        "titleFontSize": font,
        "titleFontWeight": "normal",
        "orient": "bottom",
        "labelLimit": 300,
        "columns": max(1, look.width // 190),
    }
    return (
        chart.configure(font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(**axis)
        .configure_legend(**legend)
        .configure_title(fontSize=title, fontWeight="normal", color=INK)
        .to_dict()
    )


def pareto(x: Column, y: Column, scales: tuple[Scale, Scale], color: Column | None, look: Look) -> Any:
    """Quality against cost, with names, error bars and the Pareto front.

    Data: ``points`` (records), ``front`` (records of the front) and ``names`` (see ``names_in_plot``).
    """
    import altair as alt

    kinds = [
        alt.Scale(
            domain=list(scale.domain),
            type="log" if scale.log else "linear",
            nice=False,
            zero=False,
        )
        for scale in scales
    ]
    across = alt.X(
        f"{x.id}:Q",
        scale=kinds[0],
        title=titled(x),
        axis=alt.Axis(format=x.format, tickCount=6),
    )
    up = alt.Y(
        f"{y.id}:Q",
        scale=kinds[1],
        title=titled(y),
        axis=alt.Axis(format=y.format, tickCount=6),
    )
    base = alt.Chart(alt.NamedData("points"))
    bars = base.mark_rule(color=GREY, strokeWidth=1, opacity=0.55, clip=True)
    front = alt.Chart(alt.NamedData("front")).mark_line(
        color=GREY, strokeDash=[5, 4], strokeWidth=1.2, interpolate="linear"
    )
    layers = [
        front.encode(x=across, y=up, order=f"{x.id}:Q"),
        bars.encode(x=across, y=alt.Y(f"{y.id}_lo:Q"), y2=f"{y.id}_hi:Q"),
        bars.encode(y=up, x=alt.X(f"{x.id}_lo:Q"), x2=f"{x.id}_hi:Q"),
        _marks(base, across, up, color, look),
        *_names(look),
    ]
    return alt.layer(*layers).properties(width=look.width, height=look.height)


def titled(column: Column) -> str:
    """The title of a column, and what is better."""
    return column.title + {1: " (more is better)", -1: " (less is better)", 0: ""}[column.better]


def _marks(base: Any, across: Any, up: Any, color: Column | None, look: Look) -> Any:
    import altair as alt

    marks = base.mark_point(filled=True, size=7 * look.font, opacity=1, cursor="pointer")
    encoded = marks.encode(
        x=across,
        y=up,
        tooltip=[alt.Tooltip("label:N", title="setting"), *_tips(across, up)],
    )
    if color is None:
        return encoded.encode(color=alt.value(PALETTE[0]))
    # Shape says the same as colour.
    return encoded.encode(
        color=alt.Color(f"{color.id}:N", title=color.title, scale=alt.Scale(range=list(PALETTE))),
        shape=alt.Shape(f"{color.id}:N", title=color.title, scale=alt.Scale(range=list(SHAPES))),
    )


def _tips(across: Any, up: Any) -> list[Any]:
    import altair as alt

    return [
        alt.Tooltip(
            channel.to_dict()["field"],
            type="quantitative",
            title=channel.to_dict()["title"],
            format=".4~g",
        )
        for channel in (across, up)
    ]


def _names(look: Look) -> list[Any]:
    import altair as alt

    names = alt.Chart(alt.NamedData("names"))
    lines = names.transform_filter("datum.far").mark_rule(color=GREY, strokeWidth=0.7)
    layers = [lines.encode(x="x:Q", y="y:Q", x2="lx:Q", y2="ly:Q")]
    for side, align in (("right", "left"), ("left", "right")):
        text = names.transform_filter(f"datum.side == '{side}'").mark_text(
            align=align, baseline="middle", fontSize=look.font, color=INK
        )
        layers.append(text.encode(x="lx:Q", y="ly:Q", text="label:N"))
    return layers


def heat_map(x: Column, y: Column, number: Column, look: Look) -> Any:
    """The mean of a number for each pair of values of two swept keys.

    Data: ``points``.
    """
    import altair as alt

    valid = " && ".join(f"isValid(datum['{column.id}'])" for column in (x, y, number))
    place = "datum.high > datum.low ? (datum.value - datum.low) / (datum.high - datum.low) : 1"
    bright = f"({place}) < 0.4" if number.better < 0 else f"({place}) > 0.6"
    mean = alt.AggregatedFieldDef(**{"op": "mean", "field": number.id, "as": "value"})
    count = alt.AggregatedFieldDef(**{"op": "count", "as": "count"})
    ends = [alt.JoinAggregateFieldDef(**{"op": op, "field": "value", "as": end}) for op, end in _ENDS]
    axis = {"labelLimit": 0, "grid": False}
    base = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(valid)
        .transform_aggregate(aggregate=[mean, count], groupby=[x.id, y.id])
        .transform_joinaggregate(joinaggregate=ends)
        .transform_calculate(text=f"format(datum.value, '{number.format}')", bright=bright)
        .encode(
            x=alt.X(f"{x.id}:O", title=x.title, axis=alt.Axis(labelAngle=0, **axis)),
            # Larger values are further up, as on other axes.
            y=alt.Y(f"{y.id}:O", title=y.title, sort="descending", axis=alt.Axis(**axis)),
            tooltip=[
                alt.Tooltip(f"{x.id}:N", title=x.title),
                alt.Tooltip(f"{y.id}:N", title=y.title),
                alt.Tooltip("text:N", title=number.title),
                alt.Tooltip("count:Q", title="settings in the cell"),
            ],
        )
    )
    # The better end is the bright one.
    scale = alt.Scale(scheme=SEQUENTIAL, reverse=number.better < 0, zero=False, nice=False)
    legend = alt.Legend(title=None, orient="right", format=number.format)
    rectangles = base.mark_rect().encode(color=alt.Color("value:Q", scale=scale, legend=legend))
    ink = alt.condition("datum.bright", alt.value("black"), alt.value("white"))
    texts = base.mark_text(fontSize=look.font).encode(text="text:N", color=ink)
    return (rectangles + texts).properties(width=look.width, height=look.height, title=titled(number))


def side_by_side(parts: Sequence[Any]) -> Any:
    """Charts beside each other, each with its own colours."""
    import altair as alt

    return alt.hconcat(*parts, spacing=24).resolve_scale(color="independent")


def curves_over_key(
    x: Column, y: Column, series: str, log: bool, look: Look, ticks: Sequence[float] = ()
) -> Any:
    """A number against a swept key; a line joins the points that differ in this key alone.

    Data: ``points``. Each point has its error bar.

    Args:
        x, y: the columns of the axes.
        series: column with the other values of a point, which name its line.
        log: whether the x axis is logarithmic.
        look: size and fonts.
        ticks: the swept values, which are marked at the x axis; empty: round numbers.
    """
    import altair as alt

    valid = f"isValid(datum['{x.id}']) && isValid(datum['{y.id}'])"
    base = alt.Chart(alt.NamedData("points")).transform_filter(valid)
    scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(zero=False, nice=False)
    marked = {"values": list(ticks)} if ticks else {}
    axis = alt.Axis(grid=False, format=".8~g", labelOverlap=True, **marked)
    across = alt.X(f"{x.id}:Q", title=x.title, scale=scale, axis=axis)
    up = alt.Y(
        f"{y.id}:Q",
        title=titled(y),
        scale=alt.Scale(zero=False),
        axis=alt.Axis(format=y.format),
    )
    # One title, so that both legends become one. Lines have their own channel: a third legend would not join.
    stroke = alt.Stroke(f"{series}:N", legend=None, scale=alt.Scale(range=list(PALETTE)))
    color = alt.Color(f"{series}:N", title="setting", scale=alt.Scale(range=list(PALETTE)))
    shape = alt.Shape(f"{series}:N", title="setting", scale=alt.Scale(range=list(SHAPES)))
    bars = base.mark_rule(strokeWidth=1, opacity=0.6)
    marks = base.mark_point(filled=True, size=6 * look.font, opacity=1)
    tips = [alt.Tooltip("label:N", title="setting"), *_tips(across, up)]
    layers = [
        base.mark_line(strokeWidth=1.4).encode(x=across, y=up, stroke=stroke),
        bars.encode(x=across, y=alt.Y(f"{y.id}_lo:Q"), y2=f"{y.id}_hi:Q", stroke=stroke),
        marks.encode(x=across, y=up, color=color, shape=shape, tooltip=tips),
    ]
    return alt.layer(*layers).properties(width=look.width, height=look.height)


def curves_over_steps(quantity: str, title: str, look: Look) -> Any:
    """A quantity of each AR step, one line per point.

    Data: ``steps`` with label, step and the quantities.
    """
    import altair as alt

    across = alt.X("step:Q", title="AR step", axis=alt.Axis(tickMinStep=1, grid=False))
    up = alt.Y(f"{quantity}:Q", title=title)
    return (
        alt.Chart(alt.NamedData("steps"))
        .transform_filter(f"isValid(datum['{quantity}'])")
        .mark_line(strokeWidth=1.6, interpolate="step-after")
        .encode(
            x=across,
            y=up,
            color=alt.Color(
                "label:N",
                title="setting",
                scale=alt.Scale(range=list(PALETTE)),
                sort=None,
            ),
            # Dashes say the same as colour.
            strokeDash=alt.StrokeDash("label:N", title="setting", sort=None),
            tooltip=[alt.Tooltip("label:N", title="setting"), *_tips(across, up)],
        )
        .properties(width=look.width, height=look.height)
    )


def differences(title: str, form: str, look: Look) -> Any:
    """The difference of each point to the baseline with its 95 % interval; a line marks no difference.

    Data: ``differences`` with label, place (order of the rows), value, low and high.

    Args:
        title: title of the number.
        form: how its values are written (d3).
        look: size and fonts.
    """
    import altair as alt

    base = alt.Chart(alt.NamedData("differences"))
    places = alt.EncodingSortField(field="place", op="min")
    rows = alt.Y("label:N", sort=places, title=None, axis=alt.Axis(labelLimit=0, grid=True))
    ticks = alt.Axis(format=form, grid=False, tickCount=6)
    across = alt.X("value:Q", title=title, scale=alt.Scale(zero=True), axis=ticks)
    # An interval without zero is a difference.
    clear = "datum.low > 0 || datum.high < 0"
    ink = alt.condition(clear, alt.value(PALETTE[0]), alt.value(GREY))
    tips = [
        alt.Tooltip("label:N", title="setting"),
        *(
            alt.Tooltip(f"{name}:Q", title=shown, format=form)
            for name, shown in (("value", "difference"), ("low", "95 % from"), ("high", "95 % to"))
        ),
    ]
    zero = base.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    bars = base.mark_rule(strokeWidth=2).encode(
        y=rows, x=alt.X("low:Q", title=title, scale=alt.Scale(zero=True), axis=ticks), x2="high:Q", color=ink
    )
    marks = base.mark_point(filled=True, size=5 * look.font, opacity=1).encode(
        y=rows, x=across, color=ink, tooltip=tips
    )
    chart = alt.layer(zero, bars, marks)
    return chart.properties(width=look.width, height=alt.Step(1.7 * look.font))


def breakdown(parts: Sequence[str], title: str, look: Look) -> Any:
    """What each component takes, as stacked bars.

    Data: ``parts`` with label, place (order of the bars), part, order (of the components) and value.
    """
    import altair as alt

    colors = alt.Scale(
        domain=list(parts),
        range=[PALETTE[number % len(PALETTE)] for number in range(len(parts))],
    )
    places = alt.EncodingSortField(field="place", op="min")
    return (
        alt.Chart(alt.NamedData("parts"))
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            y=alt.Y(
                "label:N",
                sort=places,
                title=None,
                axis=alt.Axis(labelLimit=0, grid=False),
            ),
            x=alt.X("value:Q", title=title),
            color=alt.Color("part:N", title="component", scale=colors),
            order=alt.Order("order:Q"),
            tooltip=[
                "label:N",
                "part:N",
                alt.Tooltip("value:Q", title=title, format=".4~g"),
            ],
        )
        .properties(width=look.width, height=alt.Step(1.7 * look.font))
    )


def image_grid(columns: int, names: Sequence[str], tile: int, look: Look) -> Any:
    """Images side by side, the same samples in each column.

    Data: ``images`` with label, column and url.
    """
    import altair as alt

    return (
        alt.Chart(alt.NamedData("images"))
        .mark_image(width=tile, height=tile)
        .encode(
            y=alt.Y(
                "label:N",
                sort=list(names),
                title=None,
                scale=alt.Scale(paddingInner=0, paddingOuter=0),
                axis=alt.Axis(labelLimit=0, grid=False, domain=False, ticks=False),
            ),
            x=alt.X(
                "column:O",
                title="sample",
                scale=alt.Scale(domain=list(range(columns)), paddingInner=0, paddingOuter=0),
                axis=alt.Axis(orient="top", labelAngle=0, grid=False, domain=False, ticks=False),
            ),
            url="url:N",
        )
        .properties(width=alt.Step(tile + 4), height=alt.Step(tile + 4))
    )
