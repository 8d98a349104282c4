"""Meshes with OpenGL on EGL (moderngl): no display, no window, a GPU or Mesa's software renderer.

Two passes per view: samples into float textures, then their means per pixel. Depth and normals go
through the same float textures as colour, so nothing is quantised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .mesh import Mesh
from .normals import Array

if TYPE_CHECKING:
    from .render import Lighting

MAX_LIGHTS = 8
NEAREST = 1e-3
"""Near plane of a camera inside the object's bounding sphere, in radii."""

VERTEX = """
#version 330
uniform mat4 to_clip;
in vec3 in_position;
in vec3 in_normal;
in vec3 in_colour;
in vec2 in_uv;
out vec3 position;
out vec3 normal;
out vec3 colour;
out vec2 uv;
void main() {
    position = in_position;
    normal = in_normal;
    colour = in_colour;
    uv = vec2(in_uv.x, 1.0 - in_uv.y);
    gl_Position = to_clip * vec4(in_position, 1.0);
}
"""

FRAGMENT = """
#version 330
uniform sampler2D picture;
uniform bool textured;
uniform vec3 eye;
uniform float ambient;
uniform int n_lights;
uniform vec3 lights[8];
in vec3 position;
in vec3 normal;
in vec3 colour;
in vec2 uv;
layout(location = 0) out vec4 out_colour;
layout(location = 1) out vec4 out_surface;
void main() {
    vec3 albedo = colour;
    if (textured) {
        vec4 texel = textureLod(picture, uv, 0.0);
        if (texel.a < 0.5) discard;
        albedo *= texel.rgb;
    }
    float size = length(normal);
    vec3 n = size > 0.0 ? normal / size : normal;
    if (!gl_FrontFacing) n = -n;
    float brightness = ambient;
    for (int i = 0; i < n_lights; ++i) brightness += max(dot(n, lights[i]), 0.0);
    out_colour = vec4(albedo * brightness, 1.0);
    out_surface = vec4(n, distance(position, eye));
}
"""

WHOLE = """
#version 330
const vec2 corners[3] = vec2[](vec2(-1.0, -1.0), vec2(3.0, -1.0), vec2(-1.0, 3.0));
void main() {
    gl_Position = vec4(corners[gl_VertexID], 0.0, 1.0);
}
"""

MEANS = """
#version 330
uniform sampler2D samples_colour;
uniform sampler2D samples_surface;
uniform int factor;
layout(location = 0) out vec4 out_colour;
layout(location = 1) out vec4 out_surface;
void main() {
    ivec2 start = ivec2(gl_FragCoord.xy) * factor;
    vec4 colour = vec4(0.0);
    vec4 surface = vec4(0.0);
    for (int y = 0; y < factor; ++y) {
        for (int x = 0; x < factor; ++x) {
            colour += texelFetch(samples_colour, start + ivec2(x, y), 0);
            surface += texelFetch(samples_surface, start + ivec2(x, y), 0);
        }
    }
    float covered = max(colour.a, 1.0);
    out_colour = vec4(colour.rgb / covered, colour.a / float(factor * factor));
    float size = length(surface.xyz);
    out_surface = vec4(size > 0.0 ? surface.xyz / size : surface.xyz, surface.w / covered);
}
"""


class Range(NamedTuple):
    """One draw call."""

    array: Any  # the mesh's vertex array
    first: int  # index
    count: int  # of indices
    texture: Any  # None without


class GLBackend:
    """One OpenGL context and its programs; see ``mesh_render.MeshBackend``."""

    name = "egl"

    def __init__(self) -> None:
        import moderngl

        self._gl = moderngl
        create: Any = moderngl.create_context  # whose annotations know no backend by name
        self._context: Any = create(standalone=True, backend="egl", require=330)
        self._surface = self._context.program(VERTEX, FRAGMENT)
        self._means = self._context.program(WHOLE, MEANS)
        self._whole = self._context.vertex_array(self._means, [])

    def close(self) -> None:
        """Release the context and all that lives in it."""
        if self._context is not None:
            self._context.release()
            self._context = None

    def draw(
        self, mesh: Mesh, cameras: Array, side: int, fov_deg: float, factor: int, light: Lighting
    ) -> Array:
        """Means over covered samples, (V, side, side, 8); see ``MeshBackend.draw``."""
        if self._context is None:
            raise RuntimeError("this renderer is closed; make a new MeshRenderer")
        vectors = light.vectors()
        if len(vectors) > MAX_LIGHTS:
            raise ValueError(f"lighting must have at most {MAX_LIGHTS} lights, got {len(vectors)}")
        out = np.empty((len(cameras), side, side, 8), np.float32)
        with self._context, self._targets(side, side * factor) as (fine, coarse):
            self._surface["ambient"] = light.ambient
            self._surface["n_lights"] = len(vectors)
            padded = np.zeros((MAX_LIGHTS, 3), np.float32)
            padded[: len(vectors)] = vectors
            self._surface["lights"].write(padded.tobytes())
            self._means["factor"] = factor
            self._means["samples_colour"], self._means["samples_surface"] = 0, 1
            with self._uploaded(mesh) as ranges:
                for camera, picture in zip(cameras, out, strict=True):
                    self._view(ranges, camera, mesh.radius, fov_deg, fine, coarse)
                    for k in range(2):
                        raw = coarse.read(components=4, attachment=k, dtype="f4", alignment=1)
                        rows = np.frombuffer(raw, np.float32).reshape(side, side, 4)
                        picture[..., 4 * k : 4 * k + 4] = rows[::-1]  # OpenGL counts upward
        return out

    def _view(
        self,
        ranges: list[Range],
        camera: Array,
        radius: float,
        fov_deg: float,
        fine: Any,
        coarse: Any,
    ) -> None:
        fine.use()
        fine.clear()
        self._context.enable_only(self._gl.DEPTH_TEST)
        to_clip = clip_matrix(camera, radius, fov_deg).astype(np.float32)
        self._surface["to_clip"].write(to_clip.T.tobytes())  # OpenGL stores columns
        self._surface["eye"] = tuple(camera[:3, 3])
        for array, first, count, texture in ranges:
            self._surface["textured"] = texture is not None
            if texture is not None:
                texture.use(0)
            array.render(self._gl.TRIANGLES, vertices=count, first=first)
        coarse.use()
        self._context.enable_only(self._gl.NOTHING)
        for k, samples in enumerate(fine.color_attachments):
            samples.use(k)
        self._whole.render(self._gl.TRIANGLES, vertices=3)

    @contextmanager
    def _targets(self, side: int, fine_side: int) -> Iterator[tuple[Any, Any]]:
        """Framebuffers of the samples and of their means."""
        with ExitStack() as made:

            def kept(thing: Any) -> Any:
                made.callback(thing.release)
                return thing

            def colours(size: int) -> list[Any]:
                return [kept(self._context.texture((size, size), 4, dtype="f4")) for _ in range(2)]

            depth = kept(self._context.depth_renderbuffer((fine_side, fine_side)))
            fine = kept(self._context.framebuffer(colours(fine_side), depth))
            yield fine, kept(self._context.framebuffer(colours(side)))

    @contextmanager
    def _uploaded(self, mesh: Mesh) -> Iterator[list[Range]]:
        """A mesh on the device, as draw calls."""
        context = self._context
        with ExitStack() as made:

            def kept(thing: Any) -> Any:
                made.callback(thing.release)
                return thing

            uvs = np.zeros((len(mesh.vertices), 2), np.float32) if mesh.uvs is None else mesh.uvs
            columns = (mesh.vertices, mesh.normals, mesh.colours, uvs)
            vertices = kept(context.buffer(np.concatenate(columns, 1).astype(np.float32).tobytes()))
            indices = kept(context.buffer(mesh.faces.astype(np.int32).tobytes()))
            content = (vertices, "3f 3f 3f 2f", "in_position", "in_normal", "in_colour", "in_uv")
            array = kept(context.vertex_array(self._surface, [content], index_buffer=indices))
            limit = int(context.info["GL_MAX_TEXTURE_SIZE"])
            ranges = []
            for k in range(-1, len(mesh.textures)):
                first, last = np.searchsorted(mesh.face_textures, [k, k + 1])
                if first == last:
                    continue
                texture = None
                if k >= 0:
                    texels = np.ascontiguousarray(_within(mesh.textures[k], limit))
                    texture = kept(context.texture(texels.shape[1::-1], 4, texels.tobytes()))
                    texture.filter = (self._gl.LINEAR, self._gl.LINEAR)
                ranges.append(Range(array, 3 * int(first), 3 * int(last - first), texture))
            yield ranges


def _within(texels: Array, limit: int) -> Array:
    """A texture that the device can hold: every n-th texel of a larger one."""
    step = math.ceil(max(texels.shape[:2]) / limit)
    return texels[::step, ::step]


def clip_matrix(camera: Array, radius: float, fov_deg: float) -> Array:
    """World to OpenGL's clip space, (4, 4), with planes close around a sphere at the origin.

    Args:
        camera: (4, 4) camera-to-world.
        radius: of a sphere around the origin that holds all there is.
    """
    distance = float(np.linalg.norm(camera[:3, 3]))
    far = distance + 1.01 * radius
    near = max(distance - 1.01 * radius, NEAREST * radius)
    focal = 1.0 / math.tan(math.radians(fov_deg) / 2)
    depth = (far + near) / (near - far), 2 * far * near / (near - far)
    projection = np.array(
        [[focal, 0, 0, 0], [0, focal, 0, 0], [0, 0, *depth], [0, 0, -1, 0]], np.float64
    )
    return projection @ np.linalg.inv(camera)
