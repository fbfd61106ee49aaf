"""What a head is drawn from: its light, shape, pose, expression, colours and covers."""

import dataclasses

import numpy as np

Number = float | int
Colour = tuple[Number, Number, Number]  # RGB in [0, 255]


@dataclasses.dataclass(frozen=True)
class Light:
    """A lamp far away and light from everywhere. The direction points to the lamp."""

    direction: tuple[Number, Number, Number] = (0.0, -0.45, 1.0)
    ambient: Number = 0.5
    diffuse: Number = 0.62
    softness: Number = 0.3  # of the lamp: 0 is a point; from 1 on it reaches what looks away, too
    colour: Colour = (255.0, 255.0, 255.0)
    far_colour: Colour | None = None  # at the image's other side, where it differs
    exposure: Number = 1.0

    @property
    def unusual(self) -> bool:
        """Too dark, too bright, hard from the side, or coloured."""
        hard = self.ambient < 0.3 and abs(self.direction[0]) > abs(self.direction[2])
        colours = np.array([self.colour, self.far_colour or self.colour])
        coloured = np.ptp(colours, axis=1).max() > 65 or np.ptp(colours, axis=0).max() > 100
        return bool(hard or coloured or not 0.6 <= self.exposure <= 1.5)


@dataclasses.dataclass(frozen=True)
class HeadParameters:
    """Everything that a head is drawn from. The default is neutral, frontal and symmetric.

    Angles are degrees. Yaw > 0 turns the nose to the image's right, pitch > 0 lifts the nose, and
    roll > 0 turns the head clockwise. Lengths are half head widths. Expressions are 0 at rest.
    """

    yaw: Number = 0.0
    pitch: Number = 0.0
    roll: Number = 0.0

    crown: Number = 1.56
    chin: Number = 1.615
    jaw: Number = 2.18  # exponent of the outline below the eyes: 2 is an ellipse, more is squarer
    breadth: Number = 1.0
    eye_x: Number = 0.44
    eye_width: Number = 0.2
    eye_height: Number = 0.087
    eye_tilt: Number = 0.054
    brow_y: Number = -0.205
    brow_arch: Number = 0.072
    brow_width: Number = 1.0
    brow_thickness: Number = 0.104
    nose_length: Number = 0.527
    nose_width: Number = 0.2
    nose_height: Number = 0.35
    ridge: Number = 2.0  # the larger, the flatter is the nose in front and the steeper at its sides
    mouth_y: Number = 0.932
    mouth_width: Number = 0.395
    lip: Number = 0.124
    wobble: tuple[Number, ...] = (0.0, 0.0, 0.0, 0.0)  # eye, brow, mouth and jaw asymmetry

    mouth_open: Number = 0.0
    smile: Number = 0.0  # negative: corners down
    pucker: Number = 0.0
    eyes_open: Number = 1.0
    brow_raise: Number = 0.0
    frown: Number = 0.0
    gaze: tuple[Number, Number] = (0.0, 0.0)  # right and down, -1 to 1

    skin: Colour = (226.0, 178.0, 150.0)
    lip_colour: Colour = (190.0, 100.0, 95.0)
    iris: Colour = (96.0, 66.0, 40.0)
    hair_colour: Colour = (70.0, 48.0, 34.0)
    brow_strength: Number = 0.85
    eye_white: Number = 0.85  # its brightness: lids and lashes shade it
    glint: Number = 0.5  # strength of the light's reflection in the eyes
    sockets: Number = 0.42  # how dark the skin around the eyes is
    hair: str = "short"  # bald, ring, short, fringe, long
    hairline: Number = -0.85
    part: Number = 0.0  # the hair is swept: lower on the right where positive
    hair_thickness: Number = 0.14
    hair_height: Number = 0.0  # how much thicker it is on the crown
    hair_length: Number = 1.9
    hair_sides: Number = 0.0  # how far it hangs over the cheeks: 1 is down to the chin
    curl: Number = 0.0  # 0 straight, 1 in locks that stand out
    beard: Number = 0.0  # 0 none, about 0.3 a shadow, 0.9 full
    beard_kind: str = "full"  # full, goatee, moustache
    beard_length: Number = 0.0  # how far a full beard stands off below the mouth
    wrinkles: Number = 0.0
    strands: int = 0  # of hair across the face
    blush: Number = 0.0
    eye_shadow: Number = 0.0
    shadow_colour: Colour = (90.0, 60.0, 130.0)
    lipstick: bool = False
    face_paint: str = "none"  # none, clown, stripes, half, patches
    paint_colour: Colour = (200.0, 40.0, 40.0)
    glasses: str = "none"  # none, frame, dark
    lens: tuple[Number, Number, Number] = (0.36, 0.25, 3.0)  # half width, half height, squareness
    rim: Number = 0.1
    glasses_colour: Colour = (28.0, 26.0, 26.0)
    headwear: str = "none"  # none, or one of headwear.KINDS
    headwear_y: Number = -0.6  # its lower edge in front
    headwear_colour: Colour = (60.0, 70.0, 110.0)
    brim: Number = 0.6
    scarf: Number = 0.0  # 1 covers everything below the nose's tip
    mask: bool = False  # the scarf is a mask, which leaves ears and neck free
    scarf_colour: Colour = (90.0, 120.0, 160.0)
    neck: Number = 0.6  # half its width
    throat: Number = 0.0  # how far it comes forward under the chin
    chin_shadow: Number = 0.55  # how much of the light the chin keeps off it
    collar: Number = 0.0  # the share of the neck that cloth covers
    neckline: Number = 0.0  # how much lower the collar is in front
    flare: Number = 0.2  # how much wider the neck is where it enters the clothes
    shoulders: Number = 0.0  # how far they are drawn up
    # A collar that stands off: its height (0: there is none), how far it leans outwards, how far it
    # is folded down, and half its opening in front, in radians.
    lapels: tuple[Number, Number, Number, Number] = (0.0, 0.0, 0.0, 0.0)
    lapel_colour: Colour = (120.0, 120.0, 125.0)
    cloth_colour: Colour = (120.0, 120.0, 125.0)
    # Strength; where from, in radians, 0 from above and positive to the right; beyond what place.
    shadow: tuple[Number, Number, Number] = (0.0, 0.0, 0.0)
    line_strength: Number = 1.0  # of nostrils, folds and creases
    shine: Number = 0.12
    texture: Number = 0.0  # strength of skin and hair noise
    freckles: int = 0
    seed: int = 0  # of the noise

    light: Light = Light()

    @property
    def large_pose(self) -> bool:
        return bool(abs(self.yaw) > 38 or abs(self.pitch) > 26 or abs(self.roll) > 32)

    @property
    def strong_expression(self) -> bool:
        return bool(
            self.mouth_open > 0.4
            or abs(self.smile) > 0.8
            or self.eyes_open < 0.3
            or self.pucker > 0.7
        )

    @property
    def made_up(self) -> bool:
        return bool(self.lipstick or self.eye_shadow > 0.3 or self.face_paint != "none")


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker, or brighter up to white."""
    red, green, blue = (min(255.0, c * factor) for c in colour)
    return red, green, blue


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """A colour between two: a where the share is 0, b where it is 1."""
    red, green, blue = ((1 - share) * x + share * y for x, y in zip(a, b, strict=True))
    return red, green, blue
