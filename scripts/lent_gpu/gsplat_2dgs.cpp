#include "bindings.h"
// gsplat 1.4.0: the calls of 2DGS alone, which genfusion and rasterization_2dgs make.
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    py::enum_<gsplat::CameraModelType>(m, "CameraModelType")
        .value("PINHOLE", gsplat::CameraModelType::PINHOLE)
        .value("ORTHO", gsplat::CameraModelType::ORTHO)
        .value("FISHEYE", gsplat::CameraModelType::FISHEYE)
        .export_values();
    m.def("compute_sh_fwd", &gsplat::compute_sh_fwd_tensor);
    m.def("compute_sh_bwd", &gsplat::compute_sh_bwd_tensor);
    m.def("isect_tiles", &gsplat::isect_tiles_tensor);
    m.def("isect_offset_encode", &gsplat::isect_offset_encode_tensor);
    m.def("fully_fused_projection_fwd_2dgs", &gsplat::fully_fused_projection_fwd_2dgs_tensor);
    m.def("fully_fused_projection_bwd_2dgs", &gsplat::fully_fused_projection_bwd_2dgs_tensor);
    m.def("rasterize_to_pixels_fwd_2dgs", &gsplat::rasterize_to_pixels_fwd_2dgs_tensor);
    m.def("rasterize_to_pixels_bwd_2dgs", &gsplat::rasterize_to_pixels_bwd_2dgs_tensor);
}
