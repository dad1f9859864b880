// SPDX-License-Identifier: Apache-2.0
//
// A reader for the XML that S3 servers send: elements and text, entities decoded. Attributes and
// comments are passed over; a document type is refused, because it could define entities that grow.
// Whatever is no well-formed document of that kind is an error. Pure functions.
#ifndef LMSHM_WORKER_S3_XML_H_
#define LMSHM_WORKER_S3_XML_H_

#include <string>
#include <string_view>
#include <vector>

namespace lmshm {

struct XmlElement {
  std::string name;
  std::string text;  // directly in it, not in what it contains
  std::vector<XmlElement> children;

  // The first child of that name; null without one.
  const XmlElement* Child(std::string_view child_name) const;
  // Its text; empty without one.
  const std::string& TextOf(std::string_view child_name) const;
};

// Sets `*root`; false for what is not well-formed, or nested more than 16 deep.
[[nodiscard]] bool ParseXml(std::string_view document, XmlElement* root);

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_XML_H_
