"""Captions in Chinese."""

from collections.abc import Sequence
from typing import Final

from pipeline.embedded.scenes.phrasing import Phrasebook
from pipeline.embedded.scenes.scene import Background, Thing
from pipeline.embedded.scenes.vocabulary import Backdrop, Colour, Relation, Shape, Size

COLOURS: Final = {
    Colour.RED: "红色",
    Colour.ORANGE: "橙色",
    Colour.YELLOW: "黄色",
    Colour.GREEN: "绿色",
    Colour.CYAN: "青色",
    Colour.BLUE: "蓝色",
    Colour.PURPLE: "紫色",
    Colour.PINK: "粉色",
    Colour.WHITE: "白色",
    Colour.BLACK: "黑色",
}
NOUNS: Final = {
    Shape.CIRCLE: ("圆形", "圆形", "圆"),
    Shape.SQUARE: ("正方形", "方形", "方块"),
    Shape.TRIANGLE: ("三角形", "三角"),
    Shape.STAR: ("五角星", "星形", "星星"),
    Shape.RING: ("圆环", "环形"),
    Shape.CROSS: ("十字", "十字形", "加号"),
    Shape.HEART: ("心形", "爱心"),
    Shape.CRESCENT: ("月牙", "新月", "弯月"),
}
SIZES: Final = {
    Size.SMALL: ("小", "小的", "小号的"),
    Size.MEDIUM: ("中等大小的", "中号的"),
    Size.LARGE: ("大", "大的", "大号的"),
}
_SIDES: Final = {
    Relation.LEFT_OF: ("左边", "左侧", "左面"),
    Relation.RIGHT_OF: ("右边", "右侧", "右面"),
    Relation.ABOVE: ("上方", "上面", "上边"),
    Relation.BELOW: ("下方", "下面", "下边"),
}
_OPPOSITE: Final = {
    Relation.LEFT_OF: Relation.RIGHT_OF,
    Relation.RIGHT_OF: Relation.LEFT_OF,
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
}
_INSIDE: Final = ("里面", "里", "内部", "中间")
_OPENINGS: Final = (
    *("",) * 12,
    "画",
    "请画",
    "请画出",
    "一张图片：",
    "一幅简单的插画，",
    "生成一张图片，",
    "我想要一张干净的图片，",
    "一幅扁平的几何插画，简单而准确，",
)
_ENDINGS: Final = (
    *("",) * 12,
    "。",
    "。",
    "，扁平风格",
    "，简约风格",
    "，极简矢量图",
    "，边缘清晰，没有阴影，没有纹理",
    "，对比鲜明，画面中没有其他东西",
)
_FILLERS: Final = (
    "，画面中没有其他东西",
    "，边缘干净利落",
    "，没有阴影也没有纹理",
    "，简单而极简",
    "，扁平矢量风格",
    "，高质量高对比度",
    "，每种颜色都纯净均匀",
    "，一眼就能认出来",
    "，画得非常精确",
    "，像给孩子看的图画书中的一页",
)


class ChinesePhrasebook(Phrasebook):
    """Words captions in Chinese."""

    def _thing(self, thing: Thing, size: Size | None) -> str:
        adjective = self._pick(SIZES[size]) if size else ""
        colour = COLOURS[thing.colour]
        if thing.is_shape:
            noun = self._pick(NOUNS[Shape(thing.kind)])
            particle = self._pick(("", "", "的"))
            options = (
                f"{adjective}{colour}{particle}{noun}",
                f"{colour}{particle}{adjective}{noun}",
            )
            return self._pick(("", "一个")) + self._pick(options)
        return self._text(thing, adjective, colour)

    def _text(self, thing: Thing, adjective: str, colour: str) -> str:
        noun, (left, right) = self._noun(thing.kind), self._rng.choice(_QUOTES)
        quoted = f"{left}{thing.kind}{right}"
        return self._pick(
            (
                f"{adjective}{colour}的{noun}{quoted}",
                f"{adjective}{colour}{noun}{quoted}",
                f"{adjective}{colour}的{quoted}",
                f"{noun}{quoted}，{adjective}{colour}",
                f"一个{adjective}{colour}的{noun}{quoted}",
            )
        )

    def _noun(self, text: str) -> str:
        if text.isdecimal():
            return "数字"
        if len(text) > 1:
            return self._pick(("文字", "单词", "字样"))
        return "字母" if text.isascii() else self._pick(("汉字", "字"))

    def _pair(self, first: str, relation: Relation, second: str) -> str:
        side, other = self._pick(_SIDES[relation]), self._pick(_SIDES[_OPPOSITE[relation]])
        return self._pick(
            (
                f"{first}在{second}的{side}",
                f"{first}在{second}{side}",
                f"{first}位于{second}的{side}",
                f"{second}的{side}是{first}",
                f"{second}{side}有{first}",
                f"{side}是{first}，{other}是{second}",
            )
        )

    def _nested(self, inner: str, outer: str) -> str:
        inside = self._pick(_INSIDE)
        return self._pick(
            (
                f"{inner}在{outer}{inside}",
                f"{inner}在{outer}的{inside}",
                f"{outer}{inside}有{inner}",
                f"{outer}里面是{inner}",
                f"{outer}包含{inner}",
            )
        )

    def _line(self, names: Sequence[str], relation: Relation) -> str:
        first, second, third = names
        if relation is Relation.LEFT_OF and self._rng.random() < 0.25:
            return f"从右到左依次是{third}、{second}和{first}"
        order = "从左到右" if relation is Relation.LEFT_OF else "从上到下"
        sides = [self._pick(_SIDES[relation]) for _ in range(2)]
        return self._pick(
            (
                f"{order}依次是{first}、{second}和{third}",
                f"{first}、{second}和{third}，{order}排列",
                f"{first}在{second}的{sides[0]}，{second}在{third}的{sides[1]}",
            )
        )

    def _corner(self, pair: str, third: str, relation: Relation) -> str:
        side = self._pick(_SIDES[relation])
        return self._pick((f"{pair}，{third}在它们的{side}", f"{third}在两者的{side}，{pair}"))

    def _nested_beside(self, inner: str, outer: str, relation: Relation, third: str) -> str:
        side = self._pick(_SIDES[_OPPOSITE[relation]])
        return self._pick(
            (
                f"{self._nested(inner, outer)}，{side}是{third}",
                f"{self._nested(inner, outer)}，{third}在它们的{side}",
                f"{self._pair(outer, relation, third)}，{self._nested(inner, outer)}",
            )
        )

    def _background(self, background: Background) -> str:
        first, last = COLOURS[background.colours[0]], COLOURS[background.colours[-1]]
        return self._pick(_backdrop_phrases(background.backdrop, first, last))

    def _place(self, subject: str, background: str) -> str:
        return self._pick(
            (
                f"{background}上的{subject}",
                f"{background}上，{subject}",
                f"{subject}，{background}",
                f"在{background}上，{subject}",
                f"在{background}上画{subject}",
            )
        )

    def _fillers(self) -> tuple[str, ...]:
        return _FILLERS

    def _finish(self, text: str) -> str:
        return self._pick(_OPENINGS) + text + self._pick(_ENDINGS)


_QUOTES: Final = ("“”", '""', "「」")


def _backdrop_phrases(backdrop: Backdrop, first: str, last: str) -> tuple[str, ...]:
    match backdrop:
        case Backdrop.PLAIN:
            return (*(f"{first}背景",) * 3, f"纯{first}背景", f"{first}的背景")
        case Backdrop.STRIPED:
            return (f"{first}和{last}条纹背景", f"{first}与{last}相间的条纹背景")
        case Backdrop.CHECKED:
            return (f"{first}和{last}棋盘格背景", f"{first}与{last}相间的格子背景")
        case Backdrop.GRADIENT:
            return (f"从{first}到{last}的渐变背景", f"上{first}下{last}的渐变背景")
