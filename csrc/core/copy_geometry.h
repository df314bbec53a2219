// Copies geometries between structures of different kinds, such as that of the C interface.
#pragma once

namespace convkern {

// Copies the sizes, stride, padding, dilation and groups, which are the members of a Geometry. The
// C interface has the mode of padding as a number.
template <class From, class To>
void copy_geometry(const From& from, To& to) {
  to.N = from.N, to.C = from.C, to.H = from.H, to.W = from.W;
  to.O = from.O, to.Cg = from.Cg, to.R = from.R, to.S = from.S;
  to.stride_h = from.stride_h, to.stride_w = from.stride_w;
  to.pad_h = from.pad_h, to.pad_w = from.pad_w;
  to.pad_h_end = from.pad_h_end, to.pad_w_end = from.pad_w_end;
  to.padding_mode = static_cast<decltype(to.padding_mode)>(from.padding_mode);
  to.dilation_h = from.dilation_h, to.dilation_w = from.dilation_w;
  to.groups = from.groups;
}

}  // namespace convkern
