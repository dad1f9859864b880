// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/xml.h"

#include <cstdint>

namespace lmshm {

namespace {

constexpr int kMaxDepth = 16;

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Letters, digits, - . _ : and what is not ASCII. That a name does not begin with a digit is not
// checked.
bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == ':' || static_cast<unsigned char>(c) >= 0x80;
}

bool AppendUtf8(uint32_t point, std::string* out) {
  const auto byte = [out](uint32_t value) { out->push_back(static_cast<char>(value)); };
  if (point == 0 || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return false;
  if (point < 0x80) {
    byte(point);
  } else if (point < 0x800) {
    byte(0xc0 | point >> 6);
    byte(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    byte(0xe0 | point >> 12);
    byte(0x80 | (point >> 6 & 0x3f));
    byte(0x80 | (point & 0x3f));
  } else {
    byte(0xf0 | point >> 18);
    byte(0x80 | (point >> 12 & 0x3f));
    byte(0x80 | (point >> 6 & 0x3f));
    byte(0x80 | (point & 0x3f));
  }
  return true;
}

// `name` is what stands between & and ;
bool AppendEntity(std::string_view name, std::string* out) {
  constexpr std::pair<std::string_view, char> kNamed[] = {
      {"lt", '<'}, {"gt", '>'}, {"amp", '&'}, {"quot", '"'}, {"apos", '\''}};
  for (const auto& [known, c] : kNamed) {
    if (name == known) {
      out->push_back(c);
      return true;
    }
  }
  if (name.size() < 2 || name[0] != '#') return false;
  const bool hex = name[1] == 'x';
  const std::string_view digits = name.substr(hex ? 2 : 1);
  if (digits.empty() || digits.size() > 8) return false;
  uint32_t point = 0;
  for (const char c : digits) {
    uint32_t digit = 0;
    if (c >= '0' && c <= '9') {
      digit = static_cast<uint32_t>(c - '0');
    } else if (hex && c >= 'a' && c <= 'f') {
      digit = static_cast<uint32_t>(c - 'a' + 10);
    } else if (hex && c >= 'A' && c <= 'F') {
      digit = static_cast<uint32_t>(c - 'A' + 10);
    } else {
      return false;
    }
    point = point * (hex ? 16 : 10) + digit;
  }
  return AppendUtf8(point, out);
}

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  bool Document(XmlElement* root) {
    if (text_.substr(0, 3) == "\xef\xbb\xbf") at_ = 3;
    if (!Misc() || !Element(root, 0) || !Misc()) return false;
    return at_ == text_.size();
  }

 private:
  bool Starts(std::string_view with) const { return text_.substr(at_, with.size()) == with; }

  bool Take(std::string_view what) {
    if (!Starts(what)) return false;
    at_ += what.size();
    return true;
  }

  // Goes on behind the next `what`.
  bool SkipPast(std::string_view what) {
    const size_t found = text_.find(what, at_);
    if (found == std::string_view::npos) return false;
    at_ = found + what.size();
    return true;
  }

  void Spaces() {
    while (at_ < text_.size() && IsSpace(text_[at_])) at_++;
  }

  // Spaces, comments and processing instructions: what may stand around the root.
  bool Misc() {
    for (;;) {
      Spaces();
      if (Take("<!--")) {
        if (!SkipPast("-->")) return false;
      } else if (Take("<?")) {
        if (!SkipPast("?>")) return false;
      } else {
        return true;
      }
    }
  }

  std::string_view Name() {
    const size_t begin = at_;
    while (at_ < text_.size() && IsNameByte(text_[at_])) at_++;
    return text_.substr(begin, at_ - begin);
  }

  // The rest of a start tag behind its name. `*empty`: it ended with "/>".
  bool Attributes(bool* empty) {
    for (;;) {
      Spaces();
      *empty = Take("/>");
      if (*empty || Take(">")) return true;
      if (Name().empty()) return false;
      Spaces();
      if (!Take("=")) return false;
      Spaces();
      if (at_ >= text_.size() || (text_[at_] != '"' && text_[at_] != '\'')) return false;
      const char quote = text_[at_++];
      if (!SkipPast(std::string_view(&quote, 1))) return false;
    }
  }

  bool Element(XmlElement* element, int depth) {
    if (depth >= kMaxDepth || !Take("<")) return false;
    element->name = Name();
    if (element->name.empty()) return false;
    bool empty = false;
    if (!Attributes(&empty)) return false;
    return empty || Content(element, depth);
  }

  // Up to the end tag, and past it.
  bool Content(XmlElement* element, int depth) {
    for (;;) {
      const size_t special = text_.find_first_of("<&", at_);
      if (special == std::string_view::npos) return false;
      element->text.append(text_.substr(at_, special - at_));
      at_ = special;
      if (Take("</")) {
        if (Name() != element->name) return false;
        Spaces();
        return Take(">");
      }
      if (Take("<!--")) {
        if (!SkipPast("-->")) return false;
      } else if (Take("<![CDATA[")) {
        const size_t begin = at_;
        if (!SkipPast("]]>")) return false;
        element->text.append(text_.substr(begin, at_ - 3 - begin));
      } else if (Take("&")) {
        const size_t begin = at_;
        if (!SkipPast(";")) return false;
        if (!AppendEntity(text_.substr(begin, at_ - 1 - begin), &element->text)) return false;
      } else {
        element->children.emplace_back();
        if (!Element(&element->children.back(), depth + 1)) return false;
      }
    }
  }

  const std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const XmlElement* XmlElement::Child(std::string_view child_name) const {
  for (const XmlElement& child : children) {
    if (child.name == child_name) return &child;
  }
  return nullptr;
}

const std::string& XmlElement::TextOf(std::string_view child_name) const {
  static const std::string none;
  const XmlElement* const child = Child(child_name);
  return child == nullptr ? none : child->text;
}

bool ParseXml(std::string_view document, XmlElement* root) {
  *root = XmlElement();
  return Reader(document).Document(root);
}

}  // namespace lmshm
