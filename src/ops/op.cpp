#include "stuffed/ops/op.h"

#include <algorithm>

#include "dispatch.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"

namespace stuffed::ops {

#define OP(name) extern const Op name##_op;
#include "ops.inc"
#undef OP

namespace {

std::vector<std::string_view> names_of(const std::vector<Impl>& forms) {
  std::vector<std::string_view> names;
  for (const Impl form : forms)
    names.push_back(impl_name(form));
  return names;
}

/// Errors  as parse_impls()
Impl parse_form(const Op& op, std::string_view name) {
  const std::optional<Impl> form = impl_called(name);
  check(form.has_value(), Error::Kind::Usage, "'{}' is not an implementation; {} has auto, {}",
        name, op.name, fmt::join(names_of(op.forms), ", "));
  check(*form == Impl::Auto || op.has(*form), Error::Kind::Unsupported,
        "{} has no form '{}'; it has auto, {}", op.name, name, fmt::join(names_of(op.forms), ", "));
  return *form;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t end = text.find(separator); end != text.npos; end = text.find(separator)) {
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  parts.push_back(text);
  return parts;
}

}  // namespace

bool Op::has(Impl form) const {
  return std::ranges::find(forms, form) != forms.end();
}

const std::vector<const Op*>& all_ops() {
  static const std::vector<const Op*> all = {
#define OP(name) &name##_op,
#include "ops.inc"
#undef OP
  };
  return all;
}

const Op& find_op(std::string_view name) {
  std::vector<std::string_view> known;
  for (const Op* op : all_ops()) {
    if (op->name == name)
      return *op;
    known.push_back(op->name);
  }
  fail(Error::Kind::Usage, "'{}' is not an operation; known are {}", name, fmt::join(known, ", "));
}

std::string Impls::name() const {
  std::string all = others.empty() ? std::string(impl_name(scan)) : "";
  if (!others.empty() && scan != Impl::Auto)
    all = fmt::format("{}={}", scan_op.name, impl_name(scan));
  for (const auto& [op, form] : others)
    all += fmt::format("{}{}={}", all.empty() ? "" : ",", op->name, impl_name(form));
  return all;
}

Impls parse_impls(std::string_view text) {
  Impls impls;
  if (text.find('=') == text.npos && text.find(',') == text.npos) {
    impls.scan = parse_form(scan_op, text);
    return impls;
  }
  std::vector<std::pair<const Op*, Impl>> given;
  for (const std::string_view part : split(text, ',')) {
    const size_t equals = part.find('=');
    check(equals != part.npos, Error::Kind::Usage,
          "'{}' names no operation; write OP=FORM, such as scan=tiled,norm=reference", part);
    const Op& op = find_op(part.substr(0, equals));
    check(std::ranges::find(given, &op, &std::pair<const Op*, Impl>::first) == given.end(),
          Error::Kind::Usage, "{} is given twice", op.name);
    given.emplace_back(&op, parse_form(op, part.substr(equals + 1)));
  }
  for (const Op* op : all_ops())
    for (const auto& [asked, form] : given) {
      if (asked == op && op == &scan_op)
        impls.scan = form;
      else if (asked == op && form != Impl::Auto)
        impls.others.emplace_back(op, form);
    }
  return impls;
}

Forcing::Forcing(const Impls& impls) {
  for (const auto& [op, form] : impls.others)
    op->forced = form;
}

Forcing::~Forcing() {
  for (const Op* op : all_ops())
    op->forced = Impl::Auto;
}

void refuse(const Op& op, const Tensor& first, const std::vector<Impl>& takers) {
  const Impl form = op.forced;
  fail(Error::Kind::Unsupported,
       "{}: the form '{}' does not take [{}] {} on {}{}{}; those that do: {}", op.name,
       impl_name(form), fmt::join(first.sizes(), ","), toString(first.scalar_type()),
       first.device().str(), first.requires_grad() ? " with a gradient" : "",
       form != Impl::Cuda          ? ""
       : cuda_library() == nullptr ? fmt::format(" ({})", why_no_cuda())
       : !first.is_cuda()          ? " (it needs a GPU: --device cuda)"
                                   : "",
       fmt::join(names_of(takers), ", "));
}

}  // namespace stuffed::ops
